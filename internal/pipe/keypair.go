package pipe

import (
	"crypto/cipher"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/replay"

	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/pipe/repair"
	"github.com/idloc/idloc/internal/wire"
)

const nonceLen = 12

// keypair is the keys of one handshake or rekey, both directions, under one
// receiver index of ours. What is not atomic or guarded is written before
// keys is set and not changed after.
type keypair struct {
	sess      *Session
	initiator bool   // of the exchange that made it
	number    uint32 // 0 for the handshake, then the rekey's
	created   int64  // initiator: when the exchange began

	retire int64  // end then, if nothing comes any more; 0: not taken over; the pipe's mu
	mark   uint64 // highest when retire was set; the pipe's mu

	recvIndex uint32                 // ours
	sendIndex uint32                 // the peer's
	chaining  [handshake.KeyLen]byte // guarded by the pipe's mu once installed

	// keys seal and open. They are nil before the exchange has ended, and again
	// from wipe on. Who needs them for one datagram loads them and lets go of
	// them; only a farewell keeps them longer.
	keys atomic.Pointer[aeads]

	pipe      atomic.Pointer[Pipe] // nil until installed
	confirmed atomic.Bool          // an authenticated packet came in
	next      atomic.Uint64        // counter of the next packet sent
	failed    atomic.Uint64        // packets that did not open

	highest atomic.Uint64 // 1 + highest counter received; written under rmu

	marked atomic.Uint32 // DATA datagrams that routers have marked
	said   uint32        // what the peer has said of that; the sending's mu

	acks atomic.Bool // there is something in came that is to be acknowledged

	rmu    sync.Mutex // guards what follows
	replay replay.Filter
	came   *repair.Receiver // nil until a packet wants to be acknowledged
}

// aeads are the expanded keys of a keypair. There is no way to overwrite what
// is inside a cipher.AEAD, so what counts is that nothing points at it longer
// than needed.
type aeads struct{ send, recv cipher.AEAD }

// setKeys makes k usable. initiator says which side of the exchange we are.
func (k *keypair) setKeys(s *handshake.Secrets, aead wire.AEADs, initiator bool) error {
	mine, theirs := &s.ToInitiator, &s.ToResponder
	if initiator {
		mine, theirs = theirs, mine
	}
	send, err := handshake.NewAEAD(aead, mine)
	if err != nil {
		return err
	}
	recv, err := handshake.NewAEAD(aead, theirs)
	if err != nil {
		return err
	}
	k.initiator = initiator
	k.chaining = s.Chaining
	s.Wipe()
	k.keys.Store(&aeads{send, recv})
	return nil
}

// putNonce writes the nonce of a counter: 64 zero bits and the counter.
func putNonce(nonce *[nonceLen]byte, counter uint32) {
	*nonce = [nonceLen]byte{}
	binary.BigEndian.PutUint32(nonce[8:], counter)
}

// seal seals in place the datagram d, whose plaintext lies between the
// header's and the tag's room. It reports false if the keys are used up or
// wiped. It may be called concurrently with nonces of one's own.
func (k *keypair) seal(typ uint8, d []byte, nonce *[nonceLen]byte) bool {
	return k.sealWith(k.keys.Load(), typ, d, nonce)
}

// sealWith is seal under keys of k, which were loaded before they were wiped;
// nil seals nothing.
func (k *keypair) sealWith(keys *aeads, typ uint8, d []byte, nonce *[nonceLen]byte) bool {
	_, ok := k.sealFrom(keys, typ, d, d[wire.HeaderLen:len(d)-wire.TagLen], nonce)
	return ok
}

// sealFrom is sealWith of a plaintext that lies either in its place in d or outside
// of d. It returns the counter.
func (k *keypair) sealFrom(keys *aeads, typ uint8, d, plain []byte, nonce *[nonceLen]byte) (uint32, bool) {
	if keys == nil {
		return 0, false
	}
	counter := k.next.Add(1) - 1
	if counter >= rejectAfterPackets {
		return 0, false
	}
	wire.Header{Type: typ, Index: k.sendIndex, Counter: uint32(counter)}.Put(d)
	putNonce(nonce, uint32(counter))
	keys.send.Seal(d[wire.HeaderLen:wire.HeaderLen], nonce[:], plain, d[:wire.HeaderLen])
	return uint32(counter), true
}

// open opens datagram d to the end of dst[:0]. It neither asks nor marks the
// replay window. Failures count against the AEAD's integrity limit; at the
// limit the keys die. Keys that are wiped open nothing.
func (k *keypair) open(dst, d []byte, counter uint32, nonce *[nonceLen]byte) ([]byte, bool) {
	return k.openWith(k.keys.Load(), dst, d, counter, nonce)
}

// openWith is open under keys of k, which were loaded before they were wiped;
// nil opens nothing.
func (k *keypair) openWith(keys *aeads, dst, d []byte, counter uint32, nonce *[nonceLen]byte) ([]byte, bool) {
	if keys == nil {
		return nil, false
	}
	putNonce(nonce, counter)
	plain, err := keys.recv.Open(dst[:0], nonce[:], d[wire.HeaderLen:], d[:wire.HeaderLen])
	if err != nil {
		k.failed.Add(1)
		return nil, false
	}
	return plain, true
}

// accept marks the counter of an opened packet and says whether it is new. wanted
// says that the packet wants to be acknowledged.
func (k *keypair) accept(counter uint32, wanted bool) bool {
	k.rmu.Lock()
	ok := k.replay.ValidateCounter(uint64(counter), rejectAfterPackets)
	if ok && uint64(counter) >= k.highest.Load() {
		k.highest.Store(uint64(counter) + 1)
	}
	if ok && (wanted || k.came != nil) {
		if k.came == nil {
			k.came = new(repair.Receiver)
		}
		k.came.Note(counter, wanted)
		if wanted {
			k.acks.Store(true)
		}
	}
	k.rmu.Unlock()
	return ok
}

// newest says whether counter is higher than any accepted so far.
func (k *keypair) newest(counter uint32) bool {
	return uint64(counter) >= k.received()
}

// retired has k end when nothing has come in under it for a while. The caller
// holds the pipe's mu.
func (k *keypair) retired(now int64) {
	if k.retire == 0 {
		k.retire, k.mark = now+retireAfter, k.received()
	}
}

// received is 1 + the highest counter accepted so far.
func (k *keypair) received() uint64 { return k.highest.Load() }

// wipe ends k: nothing is sealed or opened from here on, and k lets go of its
// keys.
func (k *keypair) wipe() {
	k.keys.Store(nil)
	clear(k.chaining[:])
}

// dead says whether k neither seals nor opens, no longer or not yet.
func (k *keypair) dead() bool { return k.keys.Load() == nil }

// usable says whether packets of ours under k will be opened by the peer:
// the initiator of an exchange knows that the responder has the keys; the
// responder must have heard from the initiator (DESIGN §7).
func (k *keypair) usable() bool {
	return !k.dead() && (k.initiator || k.confirmed.Load())
}
