package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
	lockName = "lock"
	tempMark = ".tmp-"  // part of the names of files being written
	maxFile  = 64 << 20 // larger files are refused
)

// ErrLocked is wrapped by Open's error when another Dir, in this process or
// another, has the directory open.
var ErrLocked = errors.New("state directory is in use")

// Dir is an open state directory, or memory in its place. Its methods may be
// called concurrently.
type Dir struct {
	path string // "" is memory

	readOnly error // why Open could write nothing; nil if it could

	// What makes a write durable; tests let it fail.
	syncFile func(*os.File) error
	syncDir  func(path string) error

	mu     sync.Mutex
	locks  []*os.File // none for memory and after Close
	closed bool
	broken error                // of Break
	seen   map[string]error     // names that were checked; the error forbids Save
	failed map[string]complaint // names that Keep could not save
	memory map[string][]byte    // sealed files, if path is ""
	// journals are those of a Dir that is memory.
	journals map[string][]byte
}

// Open takes a directory for this process alone, and makes it if need be. One
// that cannot be written is opened all the same, if it can be locked: ReadOnly
// tells. An empty path gives a Dir that keeps everything in memory until Close.
func Open(path string) (*Dir, error) {
	d := &Dir{
		syncFile: (*os.File).Sync, syncDir: syncDir,
		seen: make(map[string]error), failed: make(map[string]complaint), memory: make(map[string][]byte),
		journals: make(map[string][]byte),
	}
	if path == "" {
		return d, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d.path = path
	if err := os.MkdirAll(path, dirMode); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := checkDir(path, info); err != nil {
		return nil, fmt.Errorf("state directory %s: %w", path, err)
	}
	if err := d.take(os.OpenFile); err != nil {
		return nil, err
	}
	d.sweep()
	return d, nil
}

// Has says whether a directory, which need not be open, has a document of a name.
// Whether it is whole Load says.
func Has(path, name string) bool {
	_, err := os.Stat((&Dir{path: path}).file(name))
	return err == nil
}

// ReadOnly says why Open could not write, nil if it could. What is there can be
// read then, and Save fails unless that has changed.
func (d *Dir) ReadOnly() error { return d.readOnly }

// Path returns the directory, "" for memory.
func (d *Dir) Path() string { return d.path }

// Close gives the directory free for others. It is idempotent.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.memory = nil
	// The file stays: to remove it would let two processes lock two files of
	// that name.
	var errs []error
	for _, f := range d.locks {
		errs = append(errs, unlockFile(f), f.Close())
	}
	d.locks = nil
	return errors.Join(errs...)
}

// Load reads the document of a name into v, as encoding/json does. found is
// false, without an error, if there is none. After an error the name cannot
// be saved until the directory is opened again.
func (d *Dir) Load(name string, v any) (found bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, err := d.read(name)
	if err != nil || data == nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		err = fmt.Errorf("%s: %w: %v", d.file(name), ErrDamaged, err)
		d.seen[name] = err
		return false, err
	}
	return true, nil
}

// Save replaces the document of a name. When it returns nil the document is
// on the disk.
func (d *Dir) Save(name string, v any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(name); err != nil {
		return err
	}
	// What nobody has looked at may be damaged: it must not be lost unseen.
	err, seen := d.seen[name]
	if !seen {
		_, err = d.read(name)
	}
	if err != nil {
		return fmt.Errorf("not overwritten: %w", err)
	}
	b, err := seal(name, v)
	if err != nil {
		return fmt.Errorf("state %q: %w", name, err)
	}
	if d.broken != nil {
		return fmt.Errorf("state %q: %w", name, d.broken)
	}
	if d.path == "" {
		d.memory[name] = b
		return nil
	}
	return d.write(name, b)
}

// check says whether name may be used now.
func (d *Dir) check(name string) error {
	if d.closed {
		return fmt.Errorf("state %q: %w", name, fs.ErrClosed)
	}
	ok := name != "" && len(name) <= 64
	for i := range len(name) {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("state %q: bad name", name)
	}
	return nil
}

func (d *Dir) file(name string) string {
	if d.path == "" {
		return "state " + name + " in memory"
	}
	return filepath.Join(d.path, name+".json")
}

// read returns the checked document, nil if there is none, and notes in seen
// what it found.
func (d *Dir) read(name string) (json.RawMessage, error) {
	if err := d.check(name); err != nil {
		return nil, err
	}
	if d.path == "" {
		b, ok := d.memory[name]
		if !ok {
			return nil, nil
		}
		return open(name, b)
	}
	b, err := readFile(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		d.seen[name] = nil
		return nil, nil
	}
	var data json.RawMessage
	if err == nil {
		if data, err = open(name, b); err != nil {
			err = fmt.Errorf("%s: %w", d.file(name), err)
		}
	}
	d.seen[name] = err
	return data, err
}

// readFile reads a file that only its owner may read. Its errors name it.
func readFile(path string) ([]byte, error) {
	// To open a pipe would wait for who writes to it.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: not a regular file", path, ErrDamaged)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: not a regular file", path, ErrDamaged)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %w: %d bytes are too many", path, ErrDamaged, info.Size())
	}
	if err := checkFile(info); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// write replaces the document of a name.
func (d *Dir) write(name string, b []byte) error { return d.replace(d.file(name), name, b) }

// replace replaces a file so that a crash leaves the old one or the new one.
func (d *Dir) replace(path, name string, b []byte) (err error) {
	// CreateTemp makes the file with mode 0600.
	f, err := os.CreateTemp(d.path, "."+name+tempMark+"*")
	if err != nil {
		return fmt.Errorf("state %q: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("state %q: %w", name, err)
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := d.syncFile(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return d.syncDir(d.path)
}

// sweep removes what a crash left half written. Errors do not matter: such
// files are never read.
func (d *Dir) sweep() {
	files, _ := os.ReadDir(d.path) // no pattern: the path may have any character
	for _, f := range files {
		if n := f.Name(); n[0] == '.' && strings.Contains(n, tempMark) {
			os.Remove(filepath.Join(d.path, n))
		}
	}
}
