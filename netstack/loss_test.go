package netstack

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/shim/shimtest"
)

// faults is a bad path between two nodes, datagram by datagram, each with a
// probability. Its choices come from a seed.
type faults struct {
	lose    float64 // lost
	burst   float64 // begins a burst: it and the next 19 of its batch are lost
	reorder float64 // goes out after up to three more of its batch
	acks    bool    // both directions; otherwise only from a

	mu   sync.Mutex // guards what follows
	rnd  *rand.Rand
	lost int
}

func (f *faults) filter(a *shimtest.Node) shimtest.Filter {
	return func(from, _ *shimtest.Node, b []byte, seg int) []byte {
		if from != a && !f.acks {
			return b
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		out := make([]byte, 0, len(b))
		var late []byte
		wait, gone := 0, 0
		for len(b) > 0 {
			d := b[:min(seg, len(b))]
			b = b[len(d):]
			// As many draws for each, so that the next one's do not depend on it.
			lost, burst, reorder := f.rnd.Float64() < f.lose, f.rnd.Float64() < f.burst, f.rnd.Float64() < f.reorder
			held := 1 + f.rnd.IntN(3)
			if burst {
				gone = 20
			}
			if lost || gone > 0 {
				f.lost++
				gone = max(gone-1, 0)
				continue
			}
			switch {
			case late == nil && len(d) == seg && reorder:
				late, wait = d, held
				continue
			case late != nil && (wait == 0 || len(d) < seg): // only the last may be short
				out = append(out, late...)
				late = nil
			}
			out = append(out, d...)
			wait--
		}
		return append(out, late...)
	}
}

// Datagrams that are lost, in bursts or not, or overtaken cost time, not
// bytes, and never so much that a connection stands still.
func TestTCPLoss(t *testing.T) {
	for name, c := range map[string]struct {
		size  int
		delay time.Duration
		*faults
	}{
		"few":            {2 << 20, 0, &faults{lose: .02}},
		"few, both ways": {2 << 20, 0, &faults{lose: .02, reorder: .05, acks: true}},
		"order":          {4 << 20, time.Millisecond, &faults{reorder: .05, acks: true}},
		"delay":          {4 << 20, 5 * time.Millisecond, &faults{lose: .003}},
		"many":           {128 << 10, 0, &faults{lose: .25}},
		"bursts":         {1 << 20, 0, &faults{burst: .12 / 20, acks: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			client, server := r.pair(t, r.b6)
			f := c.faults
			f.rnd = rand.New(rand.NewPCG(uint64(c.size), 7))
			r.net.SetDelay(c.delay)
			r.net.SetFilter(f.filter(r.a.Node))
			want := make([]byte, c.size)
			_, _ = rand.NewChaCha8([32]byte{7}).Read(want)
			go func() { _, _ = client.Write(want); _ = client.CloseWrite() }()
			_ = server.SetReadDeadline(time.Now().Add(2 * time.Minute))
			begin := time.Now()
			got, err := io.ReadAll(server)
			if !bytes.Equal(got, want) || err != nil {
				t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if c.reorder == 0 && f.lost == 0 {
				t.Error("nothing was lost")
			}
			t.Logf("%v, %d datagrams lost, %d segments sent again", time.Since(begin), f.lost, r.a.Stats().Retransmits)
		})
	}
}

// Datagrams that are overtaken by those of the next 2 ms do not look like lost
// ones: TCP does not begin to recover from a loss.
func TestTCPReorder(t *testing.T) {
	const delay, more = 5 * time.Millisecond, 2 * time.Millisecond
	r := newRig(t)
	client, server := r.pair(t, r.b4)
	var mu sync.Mutex // guards rnd
	rnd := rand.New(rand.NewPCG(1, 7))
	var late atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	r.net.SetDelay(delay)
	r.net.SetFilter(func(from, to *shimtest.Node, b []byte, seg int) []byte {
		mu.Lock()
		chosen := from == r.a.Node && len(b) > 2*seg && rnd.Float64() < .2
		mu.Unlock()
		if !chosen {
			return b
		}
		d := bytes.Clone(b[:seg]) // the first is overtaken by its batch, and more
		late.Add(1)
		wg.Add(1)
		time.AfterFunc(delay+more, func() {
			defer wg.Done()
			to.Pipes.Receive(to, from.LocalAddr(), d, seg)
		})
		return bytes.Clone(b[seg:])
	})
	want := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(want)
	go func() { _, _ = client.Write(want); _ = client.CloseWrite() }()
	_ = server.SetReadDeadline(time.Now().Add(2 * time.Minute))
	got, err := io.ReadAll(server)
	if !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	recoveries, st := r.a.stack.Stats().TCP.SACKRecovery.Value(), r.b.Shim.Stats()
	t.Logf("%d datagrams late, %d recoveries; %+v", late.Load(), recoveries, st)
	// On a machine so busy that late ones come later than can be waited for,
	// each of these may cost a recovery.
	if late.Load() < 10 || st.Early == 0 || recoveries > uint64(late.Load())/4+st.Gaps {
		t.Errorf("%d datagrams late, %d recoveries from loss, %d waits in vain", late.Load(), recoveries, st.Gaps)
	}
}
