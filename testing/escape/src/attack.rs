//! What an attack is: its program, its network, its control, where and how it is started.

use crate::stage::Place;

/// A row of the IPC table.
#[derive(Debug)]
pub struct Row {
    /// Directory of its programs.
    pub dir: &'static str,
    /// For people.
    pub title: &'static str,
    /// Whether it is tried between two VMs as well: nothing in it goes by process ids, which would hit one's own.
    pub between: bool,
    /// What is tried.
    pub attacks: &'static [Attack],
}

/// One attack.
#[derive(Debug)]
pub struct Attack {
    /// Its program, without `.c`.
    pub name: &'static str,
    /// With which network its VM is made.
    pub net: Net,
    /// How it is shown to work outside.
    pub control: Control,
    /// How it is started.
    pub start: Start,
    /// Why it is known to reach the host, and cannot be closed.
    pub known: Option<&'static str>,
    places: &'static [Place],
}

/// The network of an attack's VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// The default.
    Host,
    /// `--net none`: with the default the VM shares what is attacked, until VMs have networks of their own.
    None,
}

/// How an attack is shown to work outside a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Run as root.
    Plain,
    /// Run as the ordinary user.
    AsUser,
    /// Run by root's `unshare` with these flags, where it does no harm.
    InNamespaces(&'static str),
    /// Not run, and why.
    ByConstruction(&'static str),
}

/// How an attack is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// One after the other.
    Plain,
    /// With this file of the laboratory's as standard input, passed by the host.
    WithInput(&'static str),
    /// While the host's user runs a program in the VM that the attack has replaced.
    WhileWeRunItsProgram,
}

impl Attack {
    /// Whether it is tried there.
    #[must_use]
    pub fn is_for(&self, place: Place) -> bool {
        self.places.contains(&place)
    }

    /// Whether its control is not run.
    #[must_use]
    pub fn is_by_construction(&self) -> bool {
        matches!(self.control, Control::ByConstruction(_))
    }

    /// Why its control is not run.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if let Control::ByConstruction(why) = self.control { why } else { "" }
    }

    pub(crate) const fn alone(mut self) -> Self {
        self.net = Net::None;
        self
    }

    pub(crate) const fn in_namespaces(mut self, flags: &'static str) -> Self {
        self.control = Control::InNamespaces(flags);
        self
    }

    pub(crate) const fn by_user(mut self) -> Self {
        self.control = Control::AsUser;
        self
    }

    pub(crate) const fn with_input(mut self, file: &'static str) -> Self {
        self.start = Start::WithInput(file);
        self
    }

    pub(crate) const fn lured(mut self) -> Self {
        self.start = Start::WhileWeRunItsProgram;
        self
    }

    pub(crate) const fn only_in(mut self, places: &'static [Place]) -> Self {
        self.places = places;
        self
    }

    pub(crate) const fn known(mut self, why: &'static str) -> Self {
        self.known = Some(why);
        self
    }

    pub(crate) const fn by_construction(mut self, why: &'static str) -> Self {
        self.control = Control::ByConstruction(why);
        self
    }
}

/// An attack as most are: tried everywhere, one after the other, with a control of root's.
pub(crate) const fn it(name: &'static str) -> Attack {
    Attack { name, net: Net::Host, control: Control::Plain, start: Start::Plain, known: None, places: &Place::ALL }
}
