// Package pause waits for a while, or until somebody does not want that any more.
package pause

import (
	"context"
	"time"
)

// For waits for d, and says whether ctx has not ended first.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
