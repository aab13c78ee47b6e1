//! One call, from an authenticated caller to an answer or a refusal.
