//! The HSM side: long-lived keys that never leave their tokens, and what the server has them do.
