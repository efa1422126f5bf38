//! What a commit will do to the host, in order, fully decided, printable.
