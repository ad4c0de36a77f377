//! One subcommand per file. (being written)
