package upkeep

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipetest"
	"github.com/idloc/idloc/overlay/admission"
)

// What a peer has that is no member any more ends, and what others have does not; of
// one that was put out nothing is remembered, one whose time has ended may come back.
func TestEnforce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n pipetest.Net
		self, good, bad, liar := n.New(t, 1), n.New(t, 2), n.New(t, 3), n.New(t, 4)
		toGood, _ := self.Connect(good, nil, []byte("good"))
		toBad, fromBad := self.Connect(bad, nil, []byte("bad"))
		toLiar, _ := self.Connect(liar, nil, []byte("good")) // another one's chain
		member := func(chain []byte, p peerid.ID) error {
			if p == good.ID && string(chain) == "good" {
				return nil
			}
			return errors.New("no member")
		}
		swept := []admission.Departure{{Peer: bad.ID, Label: "mars", Revoked: true}, {Peer: liar.ID, Label: "pluto"}}
		var expelled int
		var dismissed, forgotten []peerid.ID
		var events []event.Event
		var log bytes.Buffer
		flows := map[peerid.ID]string{good.ID: "good", bad.ID: "bad"}
		e := Enforcer{
			Sweep: func() []admission.Departure { defer func() { swept = nil }(); return swept },
			Check: member, Expel: func() { expelled++ }, Pipes: self.Pipes,
			EndUnless: func(is func([]byte, peerid.ID) bool) {
				for p, chain := range flows {
					if !is([]byte(chain), p) {
						delete(flows, p)
					}
				}
			},
			Dismiss: func(p peerid.ID, revoked bool) {
				if revoked != (p == bad.ID) {
					t.Errorf("%v revoked: %v", p, revoked)
				}
				dismissed = append(dismissed, p)
			},
			Forget: func(p peerid.ID) { forgotten = append(forgotten, p) },
			Name:   func(label string) string { return label + ".example.com" },
			Events: func(e event.Event) { events = append(events, e) },
			Log:    slog.New(slog.NewTextHandler(&log, nil)),
		}
		e.Enforce()
		time.Sleep(time.Second) // the other side is told
		if toGood.Err() != nil || !errors.Is(toBad.Err(), errRevoked) || !errors.Is(toLiar.Err(), errRevoked) || fromBad.Err() == nil {
			t.Errorf("the pipes: %v; %v, %v; %v", toGood.Err(), toBad.Err(), fromBad.Err(), toLiar.Err())
		}
		if len(flows) != 1 || flows[good.ID] == "" || expelled != 1 {
			t.Errorf("flows of %v, connections closed %d times", flows, expelled)
		}
		if !slices.Equal(dismissed, []peerid.ID{bad.ID, liar.ID}) || !slices.Equal(forgotten, []peerid.ID{bad.ID}) {
			t.Errorf("dismissed %v, forgotten %v", dismissed, forgotten)
		}
		if len(events) != 1 || events[0].Kind != event.Revoked || events[0].Peer != bad.ID || events[0].Name != "mars.example.com" {
			t.Errorf("events %v", events)
		}
		if n := bytes.Count(log.Bytes(), []byte("no member any more")); n != 2 {
			t.Errorf("said %d times", n)
		}
		e.Enforce() // once more changes nothing
		if toGood.Err() != nil || len(dismissed) != 2 || len(events) != 1 {
			t.Error("a second time does something")
		}
	})
}
