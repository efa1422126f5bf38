//! A shell that runs marked programs in VMs: advice for whoever has no guard.
//!
//! Invariant: it helps a person who types; it keeps nobody from anything (`sh FILE`, another program, another shell).

/// A shell that there is a hook for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// Bash.
    Bash,
    /// Zsh.
    Zsh,
}

/// What is common: whether the first word of a command is a marked file. Programs of the system are not asked about.
const ASK: &str = r#"__fvm_marked() {
    [ -z "$FVM" ] || return 1
    case $1 in
        /usr/bin/*|/bin/*|/usr/sbin/*|/sbin/*|'') return 1 ;;
        */*) ;;
        *) return 1 ;;
    esac
    command fvm guard check -- "$1" 2>/dev/null
}
"#;

/// The text to be read by the shell when it starts: `eval "$(fvm guard hook bash)"`.
#[must_use]
pub fn text(shell: Shell) -> String {
    let hook = match shell {
        // With extdebug, a command is not executed when the trap returns 1 (bash(1), "shopt").
        Shell::Bash => {
            r#"__fvm_hook() {
    [ -z "$COMP_LINE" ] || return 0
    local word=${BASH_COMMAND%%[[:space:]]*}
    case $word in
        \~/*) word=$HOME/${word#??} ;;
        */*) ;;
        *) word=$(type -P -- "$word" 2>/dev/null) ;;
    esac
    __fvm_marked "$word" || return 0
    eval "command fvm run --marked -- $BASH_COMMAND"
    return 1
}
shopt -s extdebug
trap __fvm_hook DEBUG
"#
        }
        // With ERR_EXIT set in it, the command is not executed (zshmisc(1), "TRAPDEBUG").
        Shell::Zsh => {
            r#"setopt DEBUG_BEFORE_CMD
TRAPDEBUG() {
    local word=${${(z)ZSH_DEBUG_CMD}[1]}
    case $word in
        */*) word=${~word} ;;
        *) word=$(whence -p -- "$word" 2>/dev/null) ;;
    esac
    if __fvm_marked "$word"; then
        eval "command fvm run --marked -- $ZSH_DEBUG_CMD"
        setopt ERR_EXIT
    fi
}
"#
        }
    };
    format!("{ASK}{hook}")
}
