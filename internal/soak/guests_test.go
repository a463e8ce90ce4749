package main

import (
	"io"
	"math/rand/v2"
	"testing"
)

// Guests come, and leave or are revoked; that a revoked one is served would be seen.
func TestGuests(t *testing.T) {
	tally := new(tally)
	c, err := newCrew(t.Context(), config{nodes: 3, out: io.Discard}, t.TempDir(), tally)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	rnd := rand.New(rand.NewPCG(1, 1))
	for k := 0; tally.left.Load() == 0 || tally.revoked.Load() == 0; k++ {
		if err := c.guest(t.Context(), "guest"+string(rune('a'+k)), k, rnd); err != nil {
			t.Fatal(err)
		}
	}
	if tally.bad() || tally.guests.Load() != tally.left.Load()+tally.revoked.Load() {
		t.Errorf("%v\n%q", tally, tally.complaints)
	}
	tally.complain(&tally.letIn, "served")
	if !tally.bad() {
		t.Error("that a revoked one is served is no fault")
	}
}
