//! Audit records: numbered without gaps per tenant, chained, signed in the HSM, and committed before an answer leaves.
