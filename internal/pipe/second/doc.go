// Package second is a second implementation of a pipe's handshake and
// datagrams, for tests only. It was written from the package docs of
// internal/wire, internal/pipe and internal/pipe/handshake, and shares no code with
// them: it imports nothing of this module, so what those texts leave out, or say
// otherwise than the code does, shows as two peers that do not understand each
// other (its tests). It keeps no state machine, no timers and no limits, and must
// not be used for anything but that.
//
//	noise.go  Noise_IK_25519_ChaChaPoly_SHA256 (Noise rev. 34)
//	peer.go   identities, offer and answer, key schedule
//	keys.go   datagrams, control frames, rekeys
package second
