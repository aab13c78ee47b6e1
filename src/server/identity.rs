//! Who a caller is: a certificate, a token, an address or a trusted gateway; never anything in a request's body.
