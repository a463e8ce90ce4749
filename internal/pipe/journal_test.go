package pipe

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	statedir "github.com/idloc/idloc/internal/state"
)

// memoryJournal is a Journal that outlives an Endpoint.
type memoryJournal struct {
	records [][]byte
	broken  error
	synced  int
}

func (j *memoryJournal) Filter(keep func([]byte) bool) error {
	var kept [][]byte
	for _, r := range j.records {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	j.records = kept
	return j.broken
}

func (j *memoryJournal) Append(record []byte) func() error {
	if j.broken == nil {
		j.records = append(j.records, bytes.Clone(record))
	}
	return func() error { j.synced++; return j.broken }
}

// An offer that was read is not answered by the next process, though it is
// recorded and the restart comes at once, and without a word: neither one that
// came, whether it was accepted, confirmed or refused, nor one that was held back
// on its way while a later one was confirmed. New ones of the same peer are.
func TestRecordedOfferAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		j := &memoryJournal{}
		with := func(c *Config) { c.Offers = j }
		a, c := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 3, "192.0.2.3:1000")
		b := newHost(t, n, 2, "192.0.2.2:1000", with)
		held, err := a.NewOffer(b.id, Local{})
		if err != nil {
			t.Fatal(err)
		}
		defer held.Cancel()
		recorded := map[string][]byte{"held back": held.Bytes()}
		offer := func(from *host, name string) *Incoming {
			t.Helper()
			o, err := from.NewOffer(b.id, Local{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(o.Cancel)
			in, err := b.ReadOffer(o.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if again, err := b.ReadOffer(o.Bytes()); err != nil || again != in {
				t.Errorf("%s, again: %v", name, err)
			}
			recorded[name] = o.Bytes()
			return in
		}
		before := j.synced
		if _, _, err := offer(c, "accepted").Accept(Local{}); err != nil || j.synced != before+1 {
			t.Errorf("%v, %d records synced before the answer", err, j.synced-before)
		}
		offer(c, "refused").Reject()
		offer(c, "read")
		o, err := a.NewOffer(b.id, Local{})
		if err != nil {
			t.Fatal(err)
		}
		in, err := b.ReadOffer(o.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		answer, sb, err := in.Accept(Local{})
		if err != nil {
			t.Fatal(err)
		}
		sa, err := o.Finish(answer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Up(sb, b.path(a)); err != nil {
			t.Fatal(err)
		}
		pa, err := a.Up(sa, a.path(b))
		if err != nil {
			t.Fatal(err)
		}
		recorded["confirmed"] = o.Bytes()
		send(pa, packet(100))
		settle(time.Second)
		for range 3 { // of restarts
			b = newHost(t, n, 2, "192.0.2.2:1000", with) // the old one crashed
			for name, bytes := range recorded {
				if _, err := b.ReadOffer(bytes); !errors.Is(err, ErrReplayed) {
					t.Errorf("%s: %v", name, err)
				}
			}
			settle(time.Minute)
		}
		for _, h := range []*host{a, c} {
			o, err := h.NewOffer(b.id, Local{})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Cancel()
			if _, err := b.ReadOffer(o.Bytes()); err != nil {
				t.Errorf("a new offer: %v", err)
			}
		}
		// When the clock refuses them, they are forgotten.
		settle(11 * time.Minute)
		b = newHost(t, n, 2, "192.0.2.2:1000", with)
		for name, bytes := range recorded {
			if _, err := b.ReadOffer(bytes); !errors.Is(err, ErrClock) {
				t.Errorf("%s, later: %v", name, err)
			}
		}
		if len(j.records) != 0 || len(b.responder.initiators) != 0 {
			t.Errorf("%d records, %d initiators", len(j.records), len(b.responder.initiators))
		}
	})
}

// Records that are none change nothing, and as many peers are remembered as
// without a restart.
func TestRestoreRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResponder()
		in := &Incoming{Peer: [32]byte{1}, stamp: stampOf(0), hash: [32]byte{2}}
		good, confirmed := readRecord(in), recordOf(recordConfirmed, in)
		other := bytes.Clone(good)
		other[0] = 3
		late, early := &Incoming{Peer: in.Peer, hash: in.hash}, &Incoming{Peer: in.Peer, hash: in.hash}
		late.stamp, early.stamp = stampOf(-10*time.Minute-time.Microsecond), stampOf(10*time.Minute+time.Microsecond)
		for name, b := range map[string][]byte{"empty": {}, "short": good[:recordHead-1], "no hash": good[:recordHead], "half a hash": good[:len(good)-1],
			"more": append(bytes.Clone(good), 0), "another kind": other, "confirmed and more": append(bytes.Clone(confirmed), 0),
			"too old": readRecord(late), "of the future": readRecord(early)} {
			if r.restore(b, 1) || len(r.initiators) != 0 {
				t.Errorf("%s is taken", name)
			}
		}
		late.stamp, early.stamp = stampOf(-10*time.Minute), stampOf(10*time.Minute)
		for i, b := range [][]byte{good, good, confirmed, readRecord(late), readRecord(early)} {
			if !r.restore(b, 1) {
				t.Errorf("record %d is not taken", i)
			}
		}
		if from := r.initiators[in.Peer]; len(from.seen) != 1 || from.seen[0] != in.hash || from.timestamp != in.stamp || !from.confirmed {
			t.Errorf("%+v", from)
		}
		for i := range byte(40) {
			in.hash[1] = i
			r.restore(readRecord(in), 1)
		}
		if from := r.initiators[in.Peer]; len(from.seen) != maxSeen || from.seen[maxSeen-1] != in.hash {
			t.Errorf("%d offers remembered", len(from.seen))
		}
		for i := range maxInitiators + 10 {
			in.Peer = [32]byte{3, byte(i), byte(i >> 8)}
			if ok := r.restore(readRecord(in), 1); ok != (i < maxInitiators-1) {
				t.Fatalf("peer %d: %v", i, ok)
			}
		}
	})
}

// A disk that takes nothing stops nobody.
func TestBrokenJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		j := &memoryJournal{broken: io.ErrShortWrite}
		a := newHost(t, n, 1, "192.0.2.1:1000")
		b := newHost(t, n, 2, "192.0.2.2:1000", func(c *Config) { c.Offers = j })
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		settle(time.Second)
		if pa.Err() != nil || pb.Err() != nil || j.synced != 1 {
			t.Errorf("%v, %v, %d records", pa.Err(), pb.Err(), j.synced)
		}
	})
}

// The journal is written anew before it grows without bound.
func TestJournalIsCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &memoryJournal{}
		b := newHost(t, newNetwork(0), 2, "192.0.2.2:1000", func(c *Config) { c.Offers = j })
		in := &Incoming{Peer: [32]byte{1}, stamp: stampOf(0)}
		b.mu.Lock()
		defer b.mu.Unlock()
		for range compactAfter - 1 {
			b.keep(readRecord(in))
		}
		if b.kept != compactAfter-1 || len(j.records) != compactAfter-1 {
			t.Errorf("%d records, counted as %d", len(j.records), b.kept)
		}
		in.stamp = stampOf(time.Minute)
		j.records = append(j.records, recordOf(recordConfirmed, in), []byte("no record"))
		settle(10*time.Minute + time.Second)
		if len(j.records) != compactAfter+1 {
			t.Errorf("%d records", len(j.records))
		}
		b.keep(readRecord(in))
		if len(j.records) != 2 || b.kept != 0 || j.records[0][0] != recordConfirmed {
			t.Errorf("%d records after %d", len(j.records), compactAfter)
		}
	})
}

// The same with files: a process that is killed leaves what it has answered.
func TestRecordedOfferOnDisk(t *testing.T) {
	dir, err := statedir.Open(t.TempDir() + "/d")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	open := func() *statedir.Journal {
		j, err := dir.OpenJournal("offers")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.Close() })
		return j
	}
	n := newNetwork(0)
	a := newHost(t, n, 1, "192.0.2.1:1000")
	b := newHost(t, n, 2, "192.0.2.2:1000", func(c *Config) { c.Offers = open() })
	o, err := a.NewOffer(b.id, Local{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Cancel()
	in, err := b.ReadOffer(o.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := in.Accept(Local{}); err != nil {
		t.Fatal(err)
	}
	next := newHost(t, n, 2, "192.0.2.2:1000", func(c *Config) { c.Offers = open() }) // nothing was closed
	if _, err := next.ReadOffer(o.Bytes()); !errors.Is(err, ErrReplayed) {
		t.Errorf("after a restart: %v", err)
	}
}
