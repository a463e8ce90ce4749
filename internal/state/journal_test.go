package state

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

func openJournal(t *testing.T, d *Dir) *Journal {
	t.Helper()
	j, err := d.OpenJournal("j")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// records reads a journal, and keeps all that it has.
func records(t *testing.T, j *Journal) (out []string) {
	t.Helper()
	if err := j.Filter(func(r []byte) bool { out = append(out, string(r)); return true }); err != nil {
		t.Error(err)
	}
	return out
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Records are there after a restart, in order, whether the journal was closed or
// the process was killed, and those that were filtered out are not.
func TestJournal(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	j := openJournal(t, d)
	want(t, records(t, j))
	long := strings.Repeat("l", 255)
	for _, s := range []string{"a", "b", long} {
		if err := j.Append([]byte(s))(); err != nil {
			t.Fatal(err)
		}
	}
	k := openJournal(t, d) // j was not closed
	want(t, records(t, k), "a", "b", long)
	if err := k.Filter(func(r []byte) bool { return string(r) != "b" }); err != nil {
		t.Fatal(err)
	}
	k.Append([]byte("c")) // nobody waits
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := k.Append([]byte("d"))(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}
	if err := k.Filter(func([]byte) bool { t.Error("a record after Close"); return true }); err != nil {
		t.Errorf("Filter after Close: %v", err)
	}
	want(t, records(t, openJournal(t, d)), "a", long, "c")
	wantFiles(t, d, "j.journal", lockName)
	if info, err := os.Stat(filepath.Join(d.Path(), "j.journal")); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// The bytes of a journal.
func TestJournalGolden(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	j := openJournal(t, d)
	records(t, j)
	if err := j.Append([]byte("123456789"))(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(d.Path(), "j.journal"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(bytes.TrimPrefix(b, []byte("idloc-journal 1\n"))); got != "0931323334353637383936b29ae0" {
		t.Error(got)
	}
}

// A crash may leave any part of the last record: those before it are read, and
// what is appended after it too. A byte that has changed ends the journal there.
func TestJournalCut(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	j := openJournal(t, d)
	records(t, j)
	for _, s := range []string{"first", "second"} {
		if err := j.Append([]byte(s))(); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	file := filepath.Join(d.Path(), "j.journal")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(journalHead) + 1 + 5 + 4; n < len(whole); n++ {
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j := openJournal(t, d)
		want(t, records(t, j), "first")
		if err := j.Append([]byte("third"))(); err != nil {
			t.Fatal(err)
		}
		want(t, records(t, j), "first", "third")
		j.Close()
	}
	for n := len(journalHead); n < len(whole); n++ {
		bad := bytes.Clone(whole)
		bad[n] ^= 0x10
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		j := openJournal(t, d)
		if n < len(journalHead)+1+5+4 {
			want(t, records(t, j))
		} else {
			want(t, records(t, j), "first")
		}
		j.Close()
	}
}

// What cannot be read is an error, and the journal is begun anew.
func TestJournalDamaged(t *testing.T) {
	t.Parallel()
	for what, b := range map[string]string{"another head": "idloc-journal 2\nx", "nothing": "", "half a head": journalHead[:5]} {
		d := mustOpen(t, t.TempDir()+"/d")
		if err := os.WriteFile(filepath.Join(d.Path(), "j.journal"), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		j := openJournal(t, d)
		if err := j.Filter(func([]byte) bool { t.Error("a record"); return true }); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		if err := j.Append([]byte("a"))(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		want(t, records(t, j), "a")
	}
}

// What the disk refuses is an error of each record, until it takes the journal
// again.
func TestJournalRefused(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	j := openJournal(t, d)
	if err := j.Append([]byte("a"))(); err == nil {
		t.Error("before the first Filter")
	}
	records(t, j)
	for _, r := range [][]byte{nil, make([]byte, 256)} {
		if err := j.Append(r)(); err == nil {
			t.Errorf("a record of %d bytes", len(r))
		}
		if err := j.Rewrite([][]byte{[]byte("x"), r}); err == nil {
			t.Errorf("rewritten with a record of %d bytes", len(r))
		}
	}
	want(t, records(t, j))
	if err := j.Rewrite([][]byte{make([]byte, 255)}); err != nil {
		t.Errorf("the longest record: %v", err)
	}
	if err := j.Rewrite(nil); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(d.Path()); err != nil {
		t.Fatal(err)
	}
	if err := j.Filter(func([]byte) bool { return true }); err == nil || !strings.Contains(err.Error(), `"j"`) {
		t.Errorf("Filter without a directory: %v", err)
	}
	if err := j.Append([]byte("a"))(); err == nil {
		t.Error("Append without a directory")
	}
	if err := os.Mkdir(d.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	records(t, j)
	if err := j.Append([]byte("a"))(); err != nil {
		t.Error(err)
	}
	want(t, records(t, j), "a")
	// A file that no longer takes a record: what was cut off there must not hide
	// what comes after.
	j.mu.Lock()
	j.f.Close()
	j.mu.Unlock()
	if err := j.Append([]byte("b"))(); err == nil {
		t.Error("Append to a closed file")
	}
	if err := j.Append([]byte("c"))(); err == nil || !strings.Contains(err.Error(), "not open") {
		t.Errorf("after a write that failed: %v", err)
	}
	want(t, records(t, j), "a")
	if _, err := d.OpenJournal("../x"); err == nil {
		t.Error("a bad name")
	}
}

var errDisk = errors.New("the disk is broken")

// In memory it works as on a disk, for as long as the Dir is open.
func TestJournalInMemory(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, "")
	j := openJournal(t, d)
	if err := j.Append([]byte("lost"))(); err != nil { // before the first Filter
		t.Error(err)
	}
	want(t, records(t, j))
	if err := j.Append([]byte("a"))(); err != nil {
		t.Error(err)
	}
	want(t, records(t, openJournal(t, d)), "a")
	d.Break(errDisk)
	if err := j.Append([]byte("b"))(); !errors.Is(err, errDisk) {
		t.Errorf("a disk that is broken: %v", err)
	}
	if err := j.Rewrite([][]byte{[]byte("b")}); !errors.Is(err, errDisk) {
		t.Errorf("a disk that is broken: %v", err)
	}
	d.Break(nil)
	want(t, records(t, j), "a")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append([]byte("c"))(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// A journal that is open outlives its Dir, whose lock it does not need, until it is
// closed, too; and then it has no file open.
func TestJournalOutlivesDir(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	j := openJournal(t, d)
	records(t, j)
	f := j.f
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append([]byte("a"))(); err != nil {
		t.Errorf("Append: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("its file was left open: %v", err)
	}
	want(t, records(t, openJournal(t, mustOpen(t, d.Path()))), "a")
}

// A record of no bytes is none, though its checksum is right: a run of zeros, which a
// crash may leave, is no run of records.
func TestJournalEmptyRecord(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	b := appendRecord([]byte(journalHead), []byte("first"))
	b = appendRecord(appendRecord(b, nil), []byte("behind it"))
	if err := os.WriteFile(filepath.Join(d.Path(), "j.journal"), b, fileMode); err != nil {
		t.Fatal(err)
	}
	want(t, records(t, openJournal(t, d)), "first")
}

// Rewrite puts records in place of what was there, and of what is under way.
func TestJournalRewrite(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	j := openJournal(t, d)
	want(t, records(t, j))
	var waits []func() error
	for i := range 20 {
		waits = append(waits, j.Append(fmt.Appendf(nil, "%d", i)))
	}
	if err := j.Rewrite([][]byte{[]byte("a"), []byte("b")}); err != nil {
		t.Fatal(err)
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			t.Error(err)
		}
	}
	if err := j.Append([]byte("c"))(); err != nil {
		t.Error(err)
	}
	if err := j.Rewrite([][]byte{nil}); err == nil {
		t.Error("an empty record")
	}
	want(t, records(t, j), "a", "b", "c")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Rewrite(nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Many append at once, while it is written anew.
func TestJournalConcurrent(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, t.TempDir()+"/d")
	j := openJournal(t, d)
	records(t, j)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20 {
				wait := j.Append(fmt.Appendf(nil, "%d %d", g, i))
				if i%5 == 0 {
					if err := wait(); err != nil {
						t.Error(err)
					}
				}
				if g == 0 && i%7 == 0 {
					records(t, j)
				}
			}
		})
	}
	wg.Wait()
	j.Close()
	got := records(t, openJournal(t, d))
	if slices.Sort(got); len(slices.Compact(got)) != 160 {
		t.Errorf("%d records", len(got))
	}
}
