// Package membership decides who belongs to an overlay: root key, tokens,
// certificate chains, roles and the revocation list.
package membership
