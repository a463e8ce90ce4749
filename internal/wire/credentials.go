package wire

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// What ICE's credentials look like here (RFC 8445 §5.3, RFC 8839 §5.4): a
// password of 32 ice-chars, 192 random bits, and a ufrag of 16 that is a hash
// of it.
const (
	PwdLen   = 32
	UfragLen = 16
)

const iceChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// Ufrag returns the ufrag that goes with a password. A peer's ufrag is sent in
// clear to addresses that nobody has proven, so a peer must not choose what it
// reads: it could name a service of a third party and write the command for
// it. It can choose among hashes only.
func Ufrag(pwd string) string {
	h := sha256.Sum256([]byte("idloc ICE ufrag " + pwd))
	return base64.RawStdEncoding.EncodeToString(h[:])[:UfragLen]
}

// ValidCredentials says whether ufrag and pwd have that form and belong
// together.
func ValidCredentials(ufrag, pwd string) bool {
	return len(pwd) == PwdLen && strings.Trim(pwd, iceChars) == "" && ufrag == Ufrag(pwd)
}
