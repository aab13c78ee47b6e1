//! Evidence of callers: SEV-SNP reports that are bound to one call, held against a tenant's policy.
