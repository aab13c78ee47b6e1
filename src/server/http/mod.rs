//! Listeners, TLS, routes and limits.
