package overlay

import (
	"errors"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// TestAwayForLongerThanARenewal: who was off until its certificate could not be renewed
// any more is no member, and is the same one again, under the same name, with a new
// token in the same directory.
func TestAwayForLongerThanARenewal(t *testing.T) {
	t.Parallel()
	const away = membership.MaxMember + membership.RenewFor + 24*time.Hour
	homes := [2]*node{newNode(t, memory(t)), newNode(t, memory(t))}
	earth := homes[0].run(Create(t.Context(), "example.com", homes[0].config("earth")))
	mars := earth.joinWith(t, homes[1], "mars", InviteOptions{Name: "mars"})
	mars.shut()
	earth.shut()

	later := newNodeWith(t, earth.key, earth.state)
	later.run(Open(t.Context(), later.configOff("earth", away)))
	again := newNodeWith(t, mars.key, mars.state)
	if _, err := Open(t.Context(), again.configOff("mars", away)); !errors.Is(err, membership.ErrExpired) {
		t.Errorf("after %v: %v", away, err)
	}
	token, err := later.Invite(InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	again.run(Join(t.Context(), token, again.configOff("mars", away)))
	if again.Self() != mars.Self() || again.Name() != "mars.example.com" || !again.Member().Confirmed {
		t.Errorf("%s, %v, confirmed %v", again.Name(), again.Self(), again.Member().Confirmed)
	}
}
