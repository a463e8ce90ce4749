package overlay

import (
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/overlay/naming"
)

// lies is what lying servers answer with: for each key of each name a value of
// each kind.
type lies map[string][][]byte

// The kinds of lies. That there is no record is one as well.
const (
	lieNone    = iota
	lieForged  // the signature is another's
	lieOther   // a true record, of another name
	lieExpired // the peer's own, once true, expired
	lieOld     // the peer's own and still valid, but not the newest
	lieKinds
)

// newLies makes up what can be said falsely about the names of peers.
func newLies(t testing.TB, o *node, peers []*node) lies {
	sign := func(p *node, label string, seq uint64, issued time.Time) []byte {
		chain := p.chainNow()
		rec := naming.Record{Label: label, Seq: seq, Issued: issued, Expires: issued.Add(naming.MaxLife), Chain: chain}
		v, err := rec.Sign(p.key, o.Overlay.roster.Overlay())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	now := time.Now()
	out := lies{}
	for i, p := range peers {
		label, other := p.Label(), peers[(i+1)%len(peers)]
		old := now.Add(-time.Hour)
		values := make([][]byte, lieKinds)
		values[lieForged] = sign(p, label, naming.Seq(now, 0), now)
		values[lieForged][len(values[lieForged])-1] ^= 1
		values[lieOther] = sign(other, other.Label(), naming.Seq(now, 0), now)
		values[lieExpired] = sign(p, label, 1, now.Add(-2*naming.MaxLife))
		values[lieOld] = sign(p, label, naming.Seq(old, 0), old)
		for _, key := range naming.Keys(o.ID(), label) {
			out[key] = values
		}
	}
	return out
}

// lie makes a server answer questions for records falsely, store none, and say
// that it has.
func (n *node) lie(kind int, all lies) {
	n.serveKad(func(s network.Stream) {
		defer s.Reset()
		r, w := msgio.NewVarintReaderSize(s, network.MessageSizeMax), msgio.NewVarintWriter(s)
		for {
			b, err := r.ReadMsg()
			if err != nil {
				return
			}
			var m pb.Message
			if proto.Unmarshal(b, &m) != nil {
				return
			}
			if m.GetType() != pb.Message_PUT_VALUE || kind%2 == 1 {
				m.Record = nil // the answer to a put is the record; without one kad-dht's own code panics
			}
			if values := all[string(m.GetKey())]; m.GetType() == pb.Message_GET_VALUE && values != nil && values[kind] != nil {
				m.Record = record.MakePutRecord(string(m.GetKey()), values[kind])
			}
			out, err := proto.Marshal(&m)
			if err != nil || w.WriteMsg(out) != nil {
				return
			}
		}
	})
}

// TestLiars has 30 % of the servers lie, in all ways that there are. No answer
// is wrong, nobody goes back behind what it has seen, and 99.9 % of the names
// resolve. The liars have stored nothing that they said they had.
func TestLiars(t *testing.T) {
	// Of 60 the greatest part of the work is that they find each other.
	n, rounds := 24, 21
	if testing.Short() || race.Enabled {
		n, rounds = 15, 10
	}
	begin := time.Now()
	s := newThrong(t, n, 4)
	t.Logf("joined in %v", time.Since(begin).Round(time.Millisecond))
	for _, p := range s.peers {
		p.directory.Serve()
	}
	await(t, "the names where they belong", 3*time.Minute, func() bool { return s.lookup(s.peers, s.peers, 1, 4).success() == 1 })
	t.Logf("settled in %v", time.Since(begin).Round(time.Millisecond))
	all := newLies(t, s.earth, s.peers)
	liars := n * 3 / 10
	for i, p := range s.peers[:liars] {
		p.lie(i%lieKinds, all)
	}
	honest := s.peers[liars:]
	start := time.Now()
	l := s.lookup(honest, s.peers, rounds, 2)
	t.Logf("%d of %d servers lie: %v; in %v", liars, n, l, time.Since(start).Round(time.Millisecond))
	if l.wrong > 0 || l.notFound > 0 {
		t.Error("a wrong answer")
	}
	if l.success() < 0.999 {
		t.Error("less than 99.9 % resolved")
	}
}
