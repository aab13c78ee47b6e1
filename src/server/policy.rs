//! What a tenant allows: how callers identify themselves, who may take over, which evidence is demanded.
