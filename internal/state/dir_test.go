package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

type doc struct {
	Text string `json:"text"`
	N    []int  `json:"n"`
}

func mustOpen(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestRoundTrip(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "a", "b")} {
		d := mustOpen(t, path)
		var got doc
		if found, err := d.Load("x", &got); found || err != nil {
			t.Fatalf("Load of nothing = %v, %v", found, err)
		}
		for _, want := range []string{"one", "<two> & \u2028"} {
			if err := d.Save("x", doc{want, []int{1, 2}}); err != nil {
				t.Fatal(err)
			}
			if found, err := d.Load("x", &got); !found || err != nil || got.Text != want || len(got.N) != 2 {
				t.Fatalf("Load = %v, %v, %+v", found, err, got)
			}
		}
		for _, name := range []string{"", "../x", "A", "a.b", strings.Repeat("x", 65)} {
			if d.Save(name, 1) == nil {
				t.Errorf("Save(%q) succeeded", name)
			}
		}
		if path != "" {
			d.Close()
			d = mustOpen(t, path)
			if found, err := d.Load("x", &got); !found || err != nil {
				t.Fatalf("after reopening: %v, %v", found, err)
			}
		}
		d.Close()
		d.Close()
		if err := d.Save("x", 1); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Save after Close: %v", err)
		}
		if _, err := d.Load("x", &got); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Load after Close: %v", err)
		}
	}
}

func TestModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no mode bits")
	}
	path := filepath.Join(t.TempDir(), "state")
	d := mustOpen(t, path)
	if err := d.Save("x", 1); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{path: 0o700, filepath.Join(path, "x.json"): 0o600, filepath.Join(path, lockName): 0o600} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", p, info.Mode(), err, want)
		}
	}
	for mode, seen := range map[fs.FileMode]bool{0o700: false, 0o710: true, 0o750: true, 0o701: true, 0o755: true} {
		os.Chmod(path, mode)
		if info, err := os.Stat(path); err != nil || OthersSee(info) != seen {
			t.Errorf("mode %04o: others see it: %v, %v", mode, !seen, err)
		}
	}
	file := filepath.Join(path, "x.json")
	os.Chmod(file, 0o644)
	if _, err := d.Load("x", new(int)); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), file) {
		t.Errorf("file of mode 0644: %v", err)
	}
	open := filepath.Join(t.TempDir(), "open")
	os.Mkdir(open, 0o700)
	for _, mode := range []fs.FileMode{0o777, 0o702, 0o720, 0o770, 0o775} {
		os.Chmod(open, mode)
		if _, err := Open(open); err == nil || !strings.Contains(err.Error(), open) {
			t.Errorf("directory of mode %04o: %v", mode, err)
		}
	}
}

// Has looks at a directory that somebody else may have open, and changes nothing.
func TestHas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir")
	if Has(path, "x") {
		t.Error("no directory has a document")
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if Has(path, "x") {
		t.Error("an empty directory has a document")
	}
	if err := d.Save("x", 1); err != nil {
		t.Fatal(err)
	}
	if !Has(path, "x") || Has(path, "y") {
		t.Errorf("x: %v, y: %v", Has(path, "x"), Has(path, "y"))
	}
}

func TestLocked(t *testing.T) {
	path := t.TempDir()
	d := mustOpen(t, path)
	if _, err := Open(path); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Open: %v", err)
	}
	d.Close()
	mustOpen(t, path)
}

// TestDamaged changes a file in many ways. None may load, and none may be
// overwritten, whether it was loaded first or not.
func TestDamaged(t *testing.T) {
	good, err := seal("x", doc{"secret", nil})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"empty":         "",
		"not JSON":      "hello",
		"other format":  `{"format":"x","version":1}`,
		"other version": strings.Replace(string(good), `"version":1`, `"version":2`, 1),
		"other name":    strings.Replace(string(good), `"name":"x"`, `"name":"y"`, 1),
		"changed data":  strings.Replace(string(good), "secret", "public", 1),
		"odd name":      strings.Replace(string(good), `"name":"x"`, `"name":5`, 1),
		"no data":       `{"format":"idloc-state","version":1,"name":"x"}`,
	}
	for i := range len(good) - 2 {
		cases["cut at "+string(rune('0'+i%10))+" "+strings.Repeat("i", i/10)] = string(good[:i])
	}
	path := t.TempDir()
	file := filepath.Join(path, "x.json")
	for name, content := range cases {
		for _, load := range []bool{true, false} {
			d := mustOpen(t, path)
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			want := ErrDamaged
			if name == "other version" {
				want = ErrVersion
			}
			if load {
				if _, err := d.Load("x", new(doc)); !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
					t.Errorf("%s: Load: %v", name, err)
				}
			}
			if err := d.Save("x", doc{"new", nil}); !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
				t.Errorf("%s: Save: %v", name, err)
			}
			if b, _ := os.ReadFile(file); string(b) != content {
				t.Errorf("%s: overwritten", name)
			}
			d.Close()
		}
	}
	// A document of another shape is damage too.
	d := mustOpen(t, path)
	os.WriteFile(file, good, 0o600)
	if _, err := d.Load("x", new(int)); !errors.Is(err, ErrDamaged) {
		t.Errorf("other shape: %v", err)
	}
	if err := d.Save("x", 1); err == nil {
		t.Error("other shape was overwritten")
	}
}

// TestSweep: what a crash left half written goes when the directory is opened,
// whatever the directory is called, and nothing of another directory does.
func TestSweep(t *testing.T) {
	base := t.TempDir()
	half := func(dir string) string {
		left := filepath.Join(base, dir, ".x"+tempMark+"123")
		if err := errors.Join(os.Mkdir(filepath.Dir(left), 0o700), os.WriteFile(left, []byte("half"), 0o600)); err != nil {
			t.Fatal(err)
		}
		return left
	}
	theirs := half("node1")
	names := []string{"plain", "node[1]", "node["}
	if runtime.GOOS != "windows" {
		names = append(names, "node?", "node*")
	}
	for _, name := range names {
		left := half(name)
		mustOpen(t, filepath.Dir(left))
		if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: half-written file stays: %v", name, err)
		}
		if _, err := os.Stat(theirs); err != nil {
			t.Fatalf("%s: another directory was swept: %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	good, _ := seal("x", doc{"a", []int{1}})
	f.Add(good)
	f.Add([]byte(`{"format":"idloc-state","version":1,"data":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := open("x", b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		again, err := seal("x", data)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open("x", again); err != nil {
			t.Fatalf("sealed again: %v", err)
		}
	})
}
