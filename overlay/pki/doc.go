// Package pki makes an overlay a certificate authority for TLS: browsers, phones and curl
// know nothing of members' keys, but of X.509 (RFC 5280) they do. Authorities and delegates
// sign a certificate for the name of any confirmed member that asks, and members tell each
// other the authorities' own certificates.
//
// Its one type that does something is the Keeper: what a peer has, asks for and answers.
//
// # Chains
//
//	root of an authority ──> [delegate] ──> mars.example.com
//	10 years                 30 days        7 days
//
// Each authority has a root of its own, since nobody else can sign for it when the founder is
// gone; a program that is to believe the overlay imports all of them. All keys are ECDSA on
// P-256, as browsers take no Ed25519. They are derived from the peer's identity key (HKDF,
// RFC 5869), so that nothing secret is on the disk besides that.
//
// What may be in a certificate is narrow at each link. Roots and delegates have name
// constraints (RFC 5280 §4.2.1.10): DNS names, mail addresses and URIs of the overlay's
// domain, and no IP addresses. Nobody who imports a root is exposed by it to more than the
// overlay: it cannot sign for a bank. The subject's serialNumber is the peer ID of whose key
// it is, for members to compare with the pipe that the certificate came by.
//
// No certificate outlasts the membership that it was signed for, and a member's lasts a week: who
// imports roots hears of no revocation. Members do: Verify refuses a chain with somebody in
// it who was revoked, and roots of who is no authority any more, at once.
//
// # Asking
//
// A peer asks when TLS is first used, so that who uses none has no cost, and again from
// half of the certificate's life on (Certificate). A question is signed by the member that it
// is for: any member passes it on to an issuer. Whoever is no confirmed member of that name
// is refused by the issuer, which needs nobody else to tell: the chain of its membership is
// in the question.
//
//	question: version 1 | hops 1 | what 1 | chain length 2 | chain | key length 2 | key | signature 64
//	answer:   status 1 | text length 1 | reason | certificates 1 | (length 2 | DER) … |
//	          roots 1 | (authority 32 | length 2 | DER | signature 64) …
//
// The key is a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7). That its owner has it, the
// handshakes show in which it is used. A root is signed by its authority's key, and counts
// while that is an authority's, no matter who tells it (membership.Signer.SignRoot).
//
//	file        section
//	keys.go     RFC 5869, FIPS 186-5 §A.2.1
//	issue.go    RFC 5280 §4.1, §4.2: what stands in a certificate
//	roots.go    the authorities' own
//	messages.go the protocol
//	answer.go   what issuers answer, and others pass on
//	keeper.go   this peer's certificate
//	verify.go   RFC 5280 §6, and whose certificate it is
package pki
