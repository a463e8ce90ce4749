package pipe

import (
	"crypto/cipher"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/replay"

	"github.com/idloc/idloc/internal/wire"
)

// keypair is the keys of one handshake or rekey, both directions, under one
// receiver index of ours. What is not atomic or guarded is written before
// ready is set and not changed after.
type keypair struct {
	sess      *Session
	initiator bool   // of the exchange that made it
	number    uint32 // 0 for the handshake, then the rekey's
	created   int64  // initiator: when the exchange began

	retire int64  // end then, if nothing comes any more; 0: not taken over; the pipe's mu
	mark   uint64 // highest when retire was set; the pipe's mu

	recvIndex  uint32 // ours
	sendIndex  uint32 // the peer's
	send, recv cipher.AEAD
	chaining   [keyLen]byte // guarded by the pipe's mu once installed

	pipe      atomic.Pointer[Pipe] // nil until installed
	ready     atomic.Bool          // the fields above are set
	dead      atomic.Bool          // neither seals nor opens any more
	confirmed atomic.Bool          // an authenticated packet came in
	next      atomic.Uint64        // counter of the next packet sent
	failed    atomic.Uint64        // packets that did not open

	rmu     sync.Mutex // guards what follows
	replay  replay.Filter
	highest uint64 // 1 + highest counter received
	taken   uint64 // packets accepted
}

// setKeys makes k usable. initiator says which side of the exchange we are.
func (k *keypair) setKeys(s *secrets, aead wire.AEADs, initiator bool) error {
	mine, theirs := &s.toInitiator, &s.toResponder
	if initiator {
		mine, theirs = theirs, mine
	}
	var err error
	if k.send, err = newAEAD(aead, mine); err != nil {
		return err
	}
	if k.recv, err = newAEAD(aead, theirs); err != nil {
		return err
	}
	k.initiator = initiator
	k.chaining = s.chaining
	s.wipe()
	k.ready.Store(true)
	return nil
}

// putNonce writes the nonce of a counter: 64 zero bits and the counter.
func putNonce(nonce *[nonceLen]byte, counter uint32) {
	*nonce = [nonceLen]byte{}
	binary.BigEndian.PutUint32(nonce[8:], counter)
}

// seal seals in place the datagram d, whose plaintext lies between the
// header's and the tag's room. It reports false if the keys are used up. It
// may be called concurrently with nonces of one's own.
func (k *keypair) seal(typ uint8, d []byte, nonce *[nonceLen]byte) bool {
	counter := k.next.Add(1) - 1
	if counter >= rejectAfterPackets || k.dead.Load() {
		return false
	}
	wire.Header{Type: typ, Index: k.sendIndex, Counter: uint32(counter)}.Put(d)
	putNonce(nonce, uint32(counter))
	plain := d[wire.HeaderLen : len(d)-wire.TagLen]
	k.send.Seal(plain[:0], nonce[:], plain, d[:wire.HeaderLen])
	return true
}

// open opens datagram d to the end of dst[:0]. It neither asks nor marks the
// replay window. Failures count against the AEAD's integrity limit; at the
// limit the keys die.
func (k *keypair) open(dst, d []byte, counter uint32, nonce *[nonceLen]byte) ([]byte, bool) {
	putNonce(nonce, counter)
	plain, err := k.recv.Open(dst[:0], nonce[:], d[wire.HeaderLen:], d[:wire.HeaderLen])
	if err != nil {
		k.failed.Add(1)
		return nil, false
	}
	return plain, true
}

// accept marks the counter of an opened packet and says whether it is new.
func (k *keypair) accept(counter uint32) bool {
	k.rmu.Lock()
	ok := k.replay.ValidateCounter(uint64(counter), rejectAfterPackets)
	if ok && uint64(counter) >= k.highest {
		k.highest = uint64(counter) + 1
	}
	if ok {
		k.taken++
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
func (k *keypair) received() uint64 {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	return k.highest
}

// lost is how many of the peer's packets up to the highest have not come.
func (k *keypair) lost() uint64 {
	k.rmu.Lock()
	defer k.rmu.Unlock()
	return k.highest - k.taken
}

// wipe ends k: nothing is sealed or opened from here on.
func (k *keypair) wipe() {
	k.dead.Store(true)
	clear(k.chaining[:])
}

// usable says whether packets of ours under k will be opened by the peer:
// the initiator of an exchange knows that the responder has the keys; the
// responder must have heard from the initiator (DESIGN §7).
func (k *keypair) usable() bool {
	return !k.dead.Load() && (k.initiator || k.confirmed.Load())
}
