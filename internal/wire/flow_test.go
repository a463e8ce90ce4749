package wire

import (
	"bytes"
	"errors"
	"testing"
)

func flowExample() Flow {
	return Flow{
		Kind: FlowResume, Protocol: FlowTCP, V6: true, Policy: PolicyPlain, ID: [16]byte{1, 2, 15: 16}, Epoch: 0x01020304,
		OpenerPort: 40000, ListenerPort: 80, Taken: 1 << 40, Ended: true, Closed: true, End: 1<<40 + 7, Unread: 9,
	}
}

// parseFlow reads a Flow from the front of b.
func parseFlow(b []byte) (f Flow, rest []byte, err error) {
	cur := cursor{b: b}
	f = cur.flow()
	if cur.err != nil {
		return Flow{}, nil, cur.err
	}
	return f, cur.b, nil
}

// A Flow is what was appended, none of its beginnings is one, and what follows
// it is left.
func TestFlow(t *testing.T) {
	for _, f := range []Flow{
		flowExample(),
		{Kind: FlowOpen, Protocol: FlowUDP},
		{Kind: FlowForbidden, Protocol: FlowTCP, Policy: PolicyTLS, Ended: true},
		{Kind: FlowRefused, Protocol: FlowTCP, V6: true},
		{Kind: FlowUnknown, Protocol: FlowUDP, Epoch: 1<<32 - 1},
		{Kind: FlowNoWay, Protocol: FlowTCP, Closed: true, Unread: 1<<32 - 1},
	} {
		b := f.Append([]byte("before"))[len("before"):]
		got, rest, err := parseFlow(append(bytes.Clone(b), "after"...))
		if err != nil || got != f || string(rest) != "after" {
			t.Errorf("%+v became %+v, %q, %v", f, got, rest, err)
		}
		for n := range b {
			if _, _, err := parseFlow(b[:n]); err == nil {
				t.Errorf("%d bytes of %d are a flow", n, len(b))
			}
		}
	}
}

func TestFlowRefused(t *testing.T) {
	for what, change := range map[string]func(b []byte){
		"kind 0":                       func(b []byte) { b[0] = 0 },
		"kind between":                 func(b []byte) { b[0] = 3 },
		"kind beyond":                  func(b []byte) { b[0] = 20 },
		"ICMP":                         func(b []byte) { b[1] = 1 },
		"unknown policy":               func(b []byte) { b[2] = PolicyPlain + 1 },
		"unknown flag":                 func(b []byte) { b[3] |= 0x08 },
		"an end of what is not closed": func(b []byte) { b[3] &^= flowClosed },
	} {
		f := flowExample()
		b := f.Append(nil)
		change(b)
		if got, _, err := parseFlow(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}

func FuzzFlow(f *testing.F) {
	seed := flowExample()
	f.Add(seed.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		flow, rest, err := parseFlow(b)
		if err != nil {
			return
		}
		if again := append(flow.Append(nil), rest...); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func TestTypesHaveNames(t *testing.T) {
	for typ, want := range map[CandidateType]string{Host: "host", 99: "CandidateType(99)"} {
		if got := typ.String(); got != want {
			t.Errorf("%d is %q, want %q", typ, got, want)
		}
	}
	for typ, want := range map[TCPType]string{Active: "active", Passive: "passive", SimOpen: "so", 9: "TCPType(9)"} {
		if got := typ.String(); got != want {
			t.Errorf("%d is %q, want %q", typ, got, want)
		}
	}
}
