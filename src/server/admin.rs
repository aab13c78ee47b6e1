//! What operators and load balancers ask of a node, on a listener of its own that only the host reaches.
