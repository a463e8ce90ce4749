package mesh

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/state"
)

// That a network lets no UDP through is remembered for it alone, over restarts, for a
// while, and until UDP works there.
func TestBlocked(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	now := time.Unix(1_700_000_000, 0)
	quiet := slog.New(slog.DiscardHandler)
	load := func() (*Blocked, func()) {
		t.Helper()
		dir, err := state.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := LoadBlocked(dir, func() time.Time { return now }, quiet)
		if err != nil {
			t.Fatal(err)
		}
		return b, func() { _ = dir.Close() }
	}
	const hotel, home = "192.0.2.0/24", "198.51.100.0/24"
	b, end := load()
	if b.Note(home, false); b.Here(hotel) || b.Here(home) {
		t.Error("blocked from the start")
	}
	b.Note(hotel, true)
	end()
	b, end = load()
	if !b.Here(hotel) || b.Here(home) {
		t.Error("not remembered over a restart, or elsewhere as well")
	}
	now = now.Add(blockedFor - time.Second)
	if !b.Here(hotel) {
		t.Error("forgotten too soon")
	}
	b.Note(hotel, true)
	now = now.Add(blockedFor - time.Second)
	if !b.Here(hotel) {
		t.Error("found again, and forgotten")
	}
	if b.Note(hotel, false); b.Here(hotel) {
		t.Error("UDP works, and it is still taken for blocked")
	}
	end()
	b, end = load()
	if b.Here(hotel) {
		t.Error("UDP has worked before the restart, and it is taken for blocked")
	}
	for i := range 3 * blockedMax {
		now = now.Add(time.Second)
		b.Note(fmt.Sprint("network ", i), true)
	}
	if !b.Here(fmt.Sprint("network ", 3*blockedMax-1)) || b.Here("network 0") || len(b.at) > blockedMax {
		t.Errorf("%d networks are remembered, or not the last", len(b.at))
	}
	now = now.Add(2 * blockedFor)
	if b.Here(fmt.Sprint("network ", 3*blockedMax-1)) {
		t.Error("never forgotten")
	}
	b.Note(home, true)
	now = now.Add(-time.Hour)
	if b.Here(home) {
		t.Error("what was found in the future counts")
	}
	end()
	files, err := filepath.Glob(filepath.Join(path, BlockedFile+"*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if b, err := LoadBlocked(dir, time.Now, quiet); err == nil || b == nil || b.Here(home) {
		t.Errorf("of a damaged file: %v, %v", b, err)
	}
}
