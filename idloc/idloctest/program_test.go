package idloctest

import (
	"context"
	"errors"
	"testing"
)

// Run gives a program the first error that it was told, ends its context before
// what was started, and that in reverse order.
func TestRun(t *testing.T) {
	t.Parallel()
	own := errors.New("its own")
	for what, c := range map[string]struct {
		f    func(testing.TB) error
		want string
	}{
		"nothing":      {func(testing.TB) error { return nil }, ""},
		"its error":    {func(tb testing.TB) error { tb.Error("told"); return own }, "its own"},
		"Error":        {func(tb testing.TB) error { tb.Error("a", 1, own); tb.Errorf("later"); return nil }, "a 1 its own"},
		"Errorf":       {func(tb testing.TB) error { tb.Errorf("%d %%", 7); return nil }, "7 %"},
		"Fatal":        {func(tb testing.TB) error { tb.Helper(); tb.Log("x"); tb.Logf("x"); tb.Fatal("100%", 2); return own }, "100% 2"},
		"Fatalf":       {func(tb testing.TB) error { tb.Fatalf("%v", own); return nil }, "its own"},
		"in a cleanup": {func(tb testing.TB) error { tb.Cleanup(func() { tb.Error("late") }); return nil }, "late"},
	} {
		err := Run(c.f)
		if got := textOf(err); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
	var order []int
	var ctx context.Context
	if err := Run(func(tb testing.TB) error {
		ctx = tb.Context()
		for i := range 3 {
			tb.Cleanup(func() {
				if ctx.Err() == nil {
					tb.Error("the context has not ended")
				}
				order = append(order, i)
			})
		}
		return ctx.Err()
	}); err != nil {
		t.Error(err)
	}
	if len(order) != 3 || order[0] != 2 || order[2] != 0 {
		t.Errorf("cleanups ran in the order %v", order)
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
