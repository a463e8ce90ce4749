package event

import "testing"

// A layer without a sink may emit, and one with a sink is heard.
func TestEmit(t *testing.T) {
	Sink(nil).Emit(Event{Kind: Miss})
	var got []Event
	Sink(func(e Event) { got = append(got, e) }).Emit(Event{Kind: PipeUp, Detail: "x"})
	if len(got) != 1 || got[0].Kind != PipeUp || got[0].Detail != "x" || got[0].Time.IsZero() {
		t.Errorf("got %+v", got)
	}
}
