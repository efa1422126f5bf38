//! A table of packet filters, as nftables takes it over netlink: all of it at once, or nothing.
//!
//! ```text
//!   Batch: table ─ sets ─ chains ─ rules              Rule: a row of expressions, the last decides
//! ```
//!
//! Invariant: nothing is removed or changed that is not in the table of that name.

use crate::netlink::{ACK, APPEND, Attributes, CREATE, EXCLUSIVE, Message, Netlink, parse};
use rustix::io::Errno;
use std::net::IpAddr;
use std::time::Duration;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const DELETE_CHAIN: u16 = 5;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
/// Both families in one table.
const INET: u8 = 1;
const REGISTER: u32 = 1;
/// What becomes of a packet that no rule of a chain decides.
const ACCEPTED: u32 = 1;
const LIST_ELEMENT: u16 = 1;
/// The first register of four bytes (`NFT_REG32_00`); one is behind the other.
const FIRST: u32 = 8;
/// `NFT_CT_MARK`
const CONNECTION_MARK: u32 = 3;

/// A packet's mark, which ends where it leaves this network namespace (`NFT_META_MARK`).
const MARK: u32 = 3;

/// From what to what a map leads. Numbers are in the machine's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// From an interface and an address to a number.
    Seat4,
    /// The same.
    Seat6,
    /// From a number to a chain.
    Way,
    /// No map, but a set of an interface and the mark of a connection.
    Own,
}

impl Key {
    /// The types of both, as `nft` writes them, six bits for each part, and their lengths in bytes.
    fn form(self) -> [(u32, u32); 2] {
        const INTERFACE: u32 = 20;
        const NUMBER: (u32, u32) = (19, 4);
        const VERDICT: (u32, u32) = (0xffff_ff00, 0);
        match self {
            Self::Seat4 => [(INTERFACE << 6 | 7, 8), NUMBER],
            Self::Seat6 => [(INTERFACE << 6 | 8, 20), NUMBER],
            Self::Way => [NUMBER, VERDICT],
            Self::Own => [(INTERFACE << 6 | 19, 8), (0, 0)],
        }
    }
}

/// One element of a map.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'a> {
    /// Who comes over this interface from this address has this number.
    Seat(u32, IpAddr, u32),
    /// Who has this number goes this way.
    Way(u32, &'a str),
    /// The connections of an interface have its number as their mark.
    Own(u32),
}

impl Entry<'_> {
    fn key(self) -> Attributes {
        let mut key = match self {
            Self::Seat(number, ..) | Self::Way(number, _) | Self::Own(number) => number.to_ne_bytes().to_vec(),
        };
        match self {
            Self::Seat(_, IpAddr::V4(v4), _) => key.extend(v4.octets()),
            Self::Seat(_, IpAddr::V6(v6), _) => key.extend(v6.octets()),
            Self::Own(number) => key.extend(number.to_ne_bytes()),
            Self::Way(..) => {}
        }
        Attributes::default().with_nested(1, value(&key))
    }

    fn whole(self) -> Attributes {
        let data = match self {
            Self::Seat(_, _, number) => value(&number.to_ne_bytes()),
            Self::Way(_, chain) => Attributes::default().with_nested(2, verdict(GOTO).with_text(2, chain)),
            Self::Own(_) => return self.key(),
        };
        self.key().with_nested(2, data)
    }
}

/// Where a chain hangs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook {
    /// Whatever comes, before anything is known of it.
    Raw = 0,
    /// Packets to this machine.
    Input = 1,
    /// Packets through it.
    Forward = 2,
    /// Packets that leave it, whose source is rewritten.
    Source = 4,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Accept,
    Drop,
    /// And the sender is told.
    Reject,
    /// It leaves with this machine's address.
    Masquerade,
    /// The chain that led here goes on.
    Return,
    /// Another chain decides; when it does not, this one goes on.
    Jump(&'static str),
    /// Another chain decides.
    Goto(&'static str),
}

/// Which of its two interfaces is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// `NFT_META_IIF`
    Came = 4,
    /// `NFT_META_OIF`
    Leaves = 5,
}

/// `enum nft_verdicts`: codes below zero.
fn verdict(code: i32) -> Attributes {
    Attributes::default().with_be(1, code.cast_unsigned())
}
const RETURN: i32 = -5;
const GOTO: i32 = -4;
const JUMP: i32 = -3;

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Icmp = 1,
    Tcp = 6,
    Udp = 17,
    Icmp6 = 58,
}

/// A rule: all tests must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule(Vec<Attributes>);

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().with_text(1, name).with_nested(2, data)
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().with(1, bytes)
}

impl Rule {
    fn also(mut self, name: &str, data: Attributes) -> Self {
        self.0.push(expression(name, data));
        self
    }

    fn meta(self, key: u32) -> Self {
        self.also("meta", Attributes::default().with_be(1, REGISTER).with_be(2, key))
    }

    fn compare(self, same: bool, bytes: &[u8]) -> Self {
        let data = Attributes::default().with_be(1, REGISTER).with_be(2, u32::from(!same));
        self.also("cmp", data.with_nested(3, value(bytes)))
    }

    fn interface(self, key: u32, is: bool, name: &str) -> Self {
        let mut padded = [0u8; 16];
        for (to, from) in padded.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        self.meta(key).compare(is, &padded)
    }

    /// It came over an interface whose name begins so.
    pub fn came_by_like(self, prefix: &str) -> Self {
        self.meta(6).compare(true, prefix.as_bytes())
    }

    /// It leaves over an interface whose name begins so.
    pub fn leaves_by_like(self, prefix: &str) -> Self {
        self.meta(7).compare(true, prefix.as_bytes())
    }

    /// Or does not.
    pub fn leaves_by_unlike(self, prefix: &str) -> Self {
        self.meta(7).compare(false, prefix.as_bytes())
    }

    /// It came over the interface, or over any other.
    pub fn from(self, is: bool, name: &str) -> Self {
        self.interface(6, is, name)
    }

    /// It leaves over the interface, or over any other.
    pub fn to(self, is: bool, name: &str) -> Self {
        self.interface(7, is, name)
    }

    /// It belongs to a connection that was allowed.
    pub fn known(self) -> Self {
        let mask = 0b110u32.to_ne_bytes();
        let bits = Attributes::default().with_be(1, REGISTER).with_be(2, REGISTER).with_be(3, 4);
        self.also("ct", Attributes::default().with_be(1, REGISTER).with_be(2, 0))
            .also("bitwise", bits.with_nested(4, value(&mask)).with_nested(5, value(&[0; 4])))
            .compare(false, &[0; 4])
    }

    /// Its transport.
    pub fn over(self, transport: Transport) -> Self {
        self.meta(16).compare(true, &[transport as u8])
    }

    /// It is for a group of machines.
    pub fn for_group(self) -> Self {
        const PACKET_TYPE: u32 = 19;
        const PACKET_MULTICAST: u8 = 2;
        self.meta(PACKET_TYPE).compare(true, &[PACKET_MULTICAST])
    }

    /// Its destination port.
    pub fn port(self, port: u16) -> Self {
        self.payload(2, 2, 2).compare(true, &port.to_be_bytes())
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::default().with_be(1, REGISTER).with_be(2, base);
        self.also("payload", data.with_be(3, offset).with_be(4, length))
    }

    fn family(self, v4: bool) -> Self {
        // NFPROTO_IPV4, NFPROTO_IPV6.
        self.meta(15).compare(true, &[if v4 { 2 } else { 10 }])
    }

    fn destination(self, v4: bool) -> Self {
        let rule = self.family(v4);
        if v4 { rule.payload(1, 16, 4) } else { rule.payload(1, 24, 16) }
    }

    /// It says that it is from another address than this, of the same family.
    pub fn not_from_address(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => self.family(true).payload(1, 12, 4).compare(false, &v4.octets()),
            IpAddr::V6(v6) => self.family(false).payload(1, 8, 16).compare(false, &v6.octets()),
        }
    }

    /// Its destination lies in a network.
    pub fn into_net(self, ip: IpAddr, prefix: u8) -> Self {
        let (bytes, rule) = match ip {
            IpAddr::V4(v4) => (v4.octets().to_vec(), self.destination(true)),
            IpAddr::V6(v6) => (v6.octets().to_vec(), self.destination(false)),
        };
        let mask: Vec<u8> = (0..bytes.len()).map(|n| ones(usize::from(prefix).saturating_sub(n * 8))).collect();
        let masked: Vec<u8> = bytes.iter().zip(&mask).map(|(b, m)| b & m).collect();
        let length = u32::try_from(bytes.len()).unwrap_or(4);
        let bits = Attributes::default().with_be(1, REGISTER).with_be(2, REGISTER).with_be(3, length);
        rule.also("bitwise", bits.with_nested(4, value(&mask)).with_nested(5, value(&vec![0; bytes.len()])))
            .compare(true, &masked)
    }

    /// Its destination is in a set.
    pub fn into_set(self, set: &str, v4: bool) -> Self {
        self.destination(v4).also("lookup", Attributes::default().with_text(1, set).with_be(2, REGISTER))
    }

    /// The interface over which it came and the address from which it says it is are together in a map of [`Key::Seat4`] or
    /// [`Key::Seat6`]; the packet is marked with the number to which they lead.
    pub fn marked_by_seat(self, map: &str, v4: bool) -> Self {
        let (offset, length) = if v4 { (12, 4) } else { (8, 16) };
        let number = Attributes::default().with_be(1, FIRST).with_be(2, By::Came as u32);
        let source = Attributes::default().with_be(1, FIRST + 1).with_be(2, 1).with_be(3, offset).with_be(4, length);
        let lookup = Attributes::default().with_text(1, map).with_be(2, FIRST).with_be(3, REGISTER);
        let mark = Attributes::default().with_be(3, REGISTER).with_be(2, MARK);
        self.family(v4).also("meta", number).also("payload", source).also("lookup", lookup).also("meta", mark)
    }

    /// It belongs to a connection that was allowed, and its interface and the connection's mark are together in a set of
    /// [`Key::Own`].
    pub fn known_to(self, by: By, set: &str) -> Self {
        let number = Attributes::default().with_be(1, FIRST).with_be(2, by as u32);
        let mark = Attributes::default().with_be(1, FIRST + 1).with_be(2, CONNECTION_MARK);
        let lookup = Attributes::default().with_text(1, set).with_be(2, FIRST);
        self.known().also("meta", number).also("ct", mark).also("lookup", lookup)
    }

    /// Marks its connection with the number of its interface.
    pub fn mark_connection(self, by: By) -> Self {
        let mark = Attributes::default().with_be(4, REGISTER).with_be(2, CONNECTION_MARK);
        self.meta(by as u32).also("ct", mark)
    }

    /// Its mark says, in a map of [`Key::Way`], which chain decides.
    pub fn by_mark(self, map: &str) -> Self {
        let lookup = Attributes::default().with_text(1, map).with_be(2, REGISTER).with_be(3, 0);
        self.meta(MARK).also("lookup", lookup)
    }

    /// What becomes of it.
    pub fn then(self, end: End) -> Self {
        let immediate = |verdict: Attributes| {
            Attributes::default().with_be(1, 0).with_nested(2, Attributes::default().with_nested(2, verdict))
        };
        match end {
            End::Drop => self.also("immediate", immediate(verdict(0))),
            End::Accept => self.also("immediate", immediate(verdict(1))),
            End::Return => self.also("immediate", immediate(verdict(RETURN))),
            End::Jump(chain) => self.also("immediate", immediate(verdict(JUMP).with_text(2, chain))),
            End::Goto(chain) => self.also("immediate", immediate(verdict(GOTO).with_text(2, chain))),
            // "Administratively prohibited", in either family.
            End::Reject => self.also("reject", Attributes::default().with_be(1, 2).with(2, [3])),
            End::Masquerade => self.also("masq", Attributes::default()),
        }
    }
}

/// The first `bits` of a byte.
fn ones(bits: usize) -> u8 {
    if bits >= 8 { 0xFF } else { !(0xFFu8 >> bits) }
}

/// Changes to one table, carried out together.
#[derive(Debug)]
pub(crate) struct Batch {
    table: String,
    messages: Vec<Message>,
}

impl Batch {
    /// Changes to `table`.
    pub fn of(table: &str) -> Self {
        Self { table: table.into(), messages: Vec::new() }
    }

    fn add(&mut self, kind: u16, flags: u16, attributes: Attributes) {
        let header = vec![INET, 0, 0, 0];
        self.messages.push(Message { kind: NFTABLES << 8 | kind, flags: flags | ACK, header, attributes });
    }

    fn named(&self) -> Attributes {
        Attributes::default().with_text(1, &self.table)
    }

    /// Makes the table, which must not be there.
    pub fn table(&mut self) {
        self.add(NEW_TABLE, CREATE | EXCLUSIVE, self.named());
    }

    /// Makes a chain at a hook. What no rule decides is dropped.
    pub fn chain(&mut self, name: &str, hook: Hook) {
        self.chain_or(name, hook, 0);
    }

    /// Makes a chain at a hook. What no rule decides is left to others.
    pub fn open_chain(&mut self, name: &str, hook: Hook) {
        self.chain_or(name, hook, ACCEPTED);
    }

    fn chain_or(&mut self, name: &str, hook: Hook, policy: u32) {
        let (kind, priority, policy) = match hook {
            // Before connections are remembered (NF_IP_PRI_RAW).
            Hook::Raw => ("filter", (-300i32).cast_unsigned(), ACCEPTED),
            Hook::Input | Hook::Forward => ("filter", 0u32, policy),
            Hook::Source => ("nat", 100, ACCEPTED),
        };
        let place = Attributes::default().with_be(1, hook as u32).with_be(2, priority);
        let attributes = self.named().with_text(3, name).with_nested(4, place).with_be(5, policy);
        self.add(NEW_CHAIN, CREATE, attributes.with_text(7, kind));
    }

    /// Adds a rule to a chain, behind the others.
    pub fn rule(&mut self, chain: &str, rule: Rule) {
        let list = rule.0.into_iter().fold(Attributes::default(), |all, one| all.with_nested(LIST_ELEMENT, one));
        let attributes = self.named().with_text(2, chain).with_nested(4, list);
        self.add(NEW_RULE, CREATE | APPEND, attributes);
    }

    /// Makes a set of addresses, each of which goes after its time, with room for `size`.
    pub fn set(&mut self, name: &str, v4: bool, size: u32) {
        const WITH_TIMEOUTS: u32 = 0x10;
        let number = u32::try_from(self.messages.len()).unwrap_or(0);
        let (kind, length) = if v4 { (7, 4) } else { (8, 16) };
        let attributes = self.named().with_text(2, name).with_be(3, WITH_TIMEOUTS).with_be(4, kind);
        let attributes = attributes.with_be(5, length).with_nested(9, Attributes::default().with_be(1, size));
        self.add(NEW_SET, CREATE, attributes.with_be(10, number));
    }

    /// Makes a map, or a set.
    pub fn map(&mut self, name: &str, key: Key) {
        const IS_MAP: u32 = 8;
        let number = u32::try_from(self.messages.len()).unwrap_or(0);
        let [(key_type, key_bytes), (data_type, data_bytes)] = key.form();
        let flags = if key == Key::Own { 0 } else { IS_MAP };
        let attributes = self.named().with_text(2, name).with_be(3, flags).with_be(4, key_type).with_be(5, key_bytes);
        let attributes = if data_type > 0 { attributes.with_be(6, data_type) } else { attributes };
        let attributes = if data_bytes > 0 { attributes.with_be(7, data_bytes) } else { attributes };
        self.add(NEW_SET, CREATE, attributes.with_be(10, number));
    }

    /// Something is in a map from now on.
    pub fn enter(&mut self, map: &str, entry: Entry<'_>) {
        self.entry(NEW_ELEMENT, CREATE, map, entry.whole());
    }

    /// And no longer.
    pub fn leave(&mut self, map: &str, entry: Entry<'_>) {
        self.entry(DELETE_ELEMENT, 0, map, entry.key());
    }

    fn entry(&mut self, kind: u16, flags: u16, map: &str, element: Attributes) {
        let list = Attributes::default().with_nested(LIST_ELEMENT, element);
        self.add(kind, flags, self.named().with_text(2, map).with_nested(3, list));
    }

    /// Takes a set away that nothing uses.
    pub fn no_set(&mut self, name: &str) {
        self.add(DELETE_SET, 0, self.named().with_text(2, name));
    }

    /// Makes a chain that others lead to.
    pub fn inner_chain(&mut self, name: &str) {
        self.add(NEW_CHAIN, CREATE, self.named().with_text(3, name));
    }

    /// Takes a chain away to which nothing leads, and its rules.
    pub fn no_chain(&mut self, name: &str) {
        const DELETE_RULE: u16 = 8;
        // First those: the sets that they use may be next.
        self.add(DELETE_RULE, 0, self.named().with_text(2, name));
        self.add(DELETE_CHAIN, 0, self.named().with_text(3, name));
    }

    /// Puts an address into a set; one that is there already starts anew.
    pub fn element(&mut self, set: &str, ip: IpAddr, hold: Duration) {
        let bytes = match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let key = Attributes::default().with_nested(1, value(&bytes));
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let timed = key.clone().with(4, hold_ms.to_be_bytes());
        let list = |element: Attributes| {
            let list = Attributes::default().with_nested(LIST_ELEMENT, element);
            self.named().with_text(2, set).with_nested(3, list)
        };
        // Older kernels do not renew what is there: so put it in, take it out, and put it in.
        let (first, out, again) = (list(timed.clone()), list(key), list(timed));
        self.add(NEW_ELEMENT, CREATE, first);
        self.add(DELETE_ELEMENT, 0, out);
        self.add(NEW_ELEMENT, CREATE, again);
    }

    /// Carries it out.
    ///
    /// # Errors
    /// The kernel's first; nothing is changed then.
    pub fn commit(self, socket: &mut Netlink) -> Result<(), Errno> {
        let edge = |kind: u16| {
            let [high, low] = NFTABLES.to_be_bytes();
            Message { kind, flags: 0, header: vec![0, 0, high, low], attributes: Attributes::default() }
        };
        let mut all = vec![edge(BATCH_BEGIN)];
        all.extend(self.messages);
        all.push(edge(BATCH_END));
        socket.ask(&all)
    }
}

/// Asks the kernel's packet filter whether it is there for this process, in this network.
///
/// # Errors
/// The kernel's: `EPERM` without the right to, `EPROTONOSUPPORT`, `EINVAL` or `EOPNOTSUPP` where it is not built.
pub(crate) fn answers(socket: &mut Netlink) -> Result<(), Errno> {
    const GET_GENERATION: u16 = 16;
    let (kind, header, attributes) = (NFTABLES << 8 | GET_GENERATION, vec![0; 4], Attributes::default());
    socket.ask(&[Message { kind, flags: ACK, header, attributes }])
}

/// Who filters what is forwarded.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    /// A table of the name that was given is there.
    pub ours: bool,
    /// The others that may drop a packet; it is lost then, whatever others say of it. Chains that hold no rule and let
    /// everything pass do not count.
    pub others: Vec<String>,
}

/// Which tables of this network filter what is forwarded. `ours`: the name of our own.
///
/// # Errors
/// The kernel's.
pub(crate) fn filters_of_forwarding(socket: &mut Netlink, ours: &str) -> Result<Forwarding, Errno> {
    const GET_CHAIN: u16 = 4;
    const TABLE: u16 = 1;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const RULES: u16 = 6;
    let chains = socket.list(NFTABLES << 8 | GET_CHAIN, vec![0; 4])?;
    let mut found = Forwarding::default();
    for chain in &chains {
        // Behind the four bytes that say of which family it is.
        let Some((head, attributes)) = chain.split_at_checked(4) else { continue };
        let name = parse::find(attributes, TABLE).unwrap_or_default();
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        if name == ours && head[0] == INET {
            found.ours = true;
            continue;
        }
        let number = |kind| parse::be(attributes, kind);
        let Some(hook) = parse::find(attributes, HOOK).and_then(|hook| parse::be(hook, 1)) else { continue };
        let lets_pass = number(POLICY) == Some(ACCEPTED) && number(RULES).unwrap_or(0) == 0;
        if hook == Hook::Forward as u32 && !lets_pass && name != ours {
            found.others.push(name);
        }
    }
    Ok(found)
}
