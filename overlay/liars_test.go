package overlay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"github.com/idloc/idloc/overlay/naming"
)

// lie makes a server answer questions for records falsely: with none, with a
// forged one, or with another peer's.
func (n *node) lie(kind int, other []byte) {
	n.host.SetStreamHandler(n.db.proto, func(s network.Stream) {
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
			switch m.GetType() {
			case pb.Message_GET_VALUE:
				switch kind % 3 {
				case 1: // forged: the last byte of a signature
					v := slices.Clone(other)
					v[len(v)-1] ^= 1
					m.Record = record.MakePutRecord(string(m.GetKey()), v)
				case 2: // true, but for another name
					m.Record = record.MakePutRecord(string(m.GetKey()), other)
				}
			case pb.Message_PUT_VALUE: // says that it has stored it
			}
			out, err := proto.Marshal(&m)
			if err != nil || w.WriteMsg(out) != nil {
				return
			}
		}
	})
}

// TestLiars has a third of the servers lie. Every name is found, and no answer
// is wrong.
func TestLiars(t *testing.T) {
	if testing.Short() {
		t.Skip("17 nodes")
	}
	earth, peers := crowd(t, 16)
	servers := peers[:9]
	for _, p := range servers {
		p.db.setServer()
		p.gate.greetAll()
	}
	await(t, "servers known", 10*time.Second, func() bool { return earth.db.kad.RoutingTable().Size() == len(servers) })
	res := earth.db.walk(t.Context(), naming.Key(earth.ID(), "peer12", 0), func(found) bool { return true })
	if len(res.found) == 0 {
		t.Fatal("no record to lie with")
	}
	for i := 0; i < len(servers); i += 3 {
		servers[i].lie(i/3, res.found[0].value)
	}
	for i, p := range peers {
		a := peers[(i+7)%len(peers)]
		label := fmt.Sprintf("peer%d", i)
		var last error
		deadline := time.Now().Add(20 * time.Second)
		for time.Now().Before(deadline) { // too few answers at once are a temporary error
			f, err := a.Resolve(t.Context(), label)
			if last = err; err != nil {
				continue
			}
			if f.Peer != p.Self() {
				t.Errorf("%s resolved to %v", label, f.Peer)
			}
			break
		}
		if last != nil {
			t.Errorf("%s: %v", label, last)
		}
	}
}
