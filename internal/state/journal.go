package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// A journal is for what comes often and is small: a record is appended, not a
// document written anew. The file, <name>.journal, is a head and records:
//
//	"idloc-journal 1\n"
//	length (1), record, CRC-32C of the two (4), big endian
//
// A crash may leave a part of the last record: what does not read as a record
// ends the file.
const (
	journalHead = "idloc-journal 1\n"
	maxRecord   = 255
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Journal keeps records across restarts. Its methods may be called concurrently.
type Journal struct {
	d    *Dir
	name string

	kick chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex // guards what follows; held while the file is written anew
	f       *os.File   // nil for memory, after Close, and while the disk refuses it
	pending []byte     // appended and not written yet
	waiting []chan error
	closed  bool
}

// OpenJournal opens the journal of a name, which is empty if there is none or if
// it cannot be read: err says why then, and the journal works all the same, as
// far as the disk does. It is closed by Close, which waits for what was appended.
func (d *Dir) OpenJournal(name string) (j *Journal, err error) {
	d.mu.Lock()
	err = d.check(name)
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	j = &Journal{d: d, name: name, kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go j.run()
	return j, nil
}

func (j *Journal) path() string { return filepath.Join(j.d.path, j.name+".journal") }

// Filter calls keep for each record, oldest first, and writes the journal anew
// with those for which it returns true. record is borrowed for the call, and keep
// must not call the Journal. An error says that records were lost, or that the
// disk does not take the journal; those that could be read were shown all the
// same.
func (j *Journal) Filter(keep func(record []byte) bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	b, err := j.read()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	} else if err == nil && !bytes.HasPrefix(b, []byte(journalHead)) {
		b, err = nil, fmt.Errorf("%s: %w", j.path(), ErrDamaged)
	}
	kept := []byte(journalHead)
	for b = bytes.TrimPrefix(b, []byte(journalHead)); len(b) > 0; {
		record, rest, ok := parseRecord(b)
		if !ok {
			break // a crash has cut it off
		}
		if keep(record) {
			kept = append(kept, b[:len(b)-len(rest)]...)
		}
		b = rest
	}
	return errors.Join(err, j.replace(kept))
}

// Rewrite writes the journal anew with the records, each of at most 255 bytes, in
// place of what it had, and of what was appended and is not written yet.
func (j *Journal) Rewrite(records [][]byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("state %q: %w", j.name, fs.ErrClosed)
	}
	b := []byte(journalHead)
	for _, r := range records {
		if len(r) == 0 || len(r) > maxRecord {
			return fmt.Errorf("state %q: a record of %d bytes", j.name, len(r))
		}
		b = appendRecord(b, r)
	}
	err := j.replace(b)
	for _, done := range j.waiting {
		done <- err
	}
	j.pending, j.waiting = nil, nil
	return err
}

// read returns what is there; of a directory that is memory, too.
func (j *Journal) read() ([]byte, error) {
	if j.d.path != "" {
		return readFile(j.path())
	}
	j.d.mu.Lock()
	defer j.d.mu.Unlock()
	if b, ok := j.d.journals[j.name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

// replace puts b in place of what is there, for Append to go on with; mu is held.
func (j *Journal) replace(b []byte) error {
	if j.f != nil {
		j.f.Close()
		j.f = nil
	}
	if err := j.d.takes(j.name); err != nil {
		return err
	}
	if j.d.path == "" {
		j.d.mu.Lock()
		defer j.d.mu.Unlock()
		j.d.journals[j.name] = b
		return nil
	}
	if err := j.d.replace(j.path(), j.name, b); err != nil {
		return err
	}
	f, err := os.OpenFile(j.path(), os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return fmt.Errorf("state %q: %w", j.name, err)
	}
	j.f = f
	return nil
}

// Append adds a record of at most 255 bytes; nothing is kept before the first
// Filter. wait returns when it is on the disk, or the error why it is not; it may
// be called once, or not at all.
func (j *Journal) Append(record []byte) (wait func() error) {
	if len(record) == 0 || len(record) > maxRecord {
		return func() error { return fmt.Errorf("state %q: a record of %d bytes", j.name, len(record)) }
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return func() error { return fmt.Errorf("state %q: %w", j.name, fs.ErrClosed) }
	}
	if err := j.d.takes(j.name); err != nil {
		return func() error { return err }
	}
	if j.d.path == "" {
		j.d.mu.Lock()
		defer j.d.mu.Unlock()
		if b, ok := j.d.journals[j.name]; ok {
			j.d.journals[j.name] = appendRecord(b, record)
		}
		return func() error { return nil }
	}
	j.pending = appendRecord(j.pending, record)
	done := make(chan error, 1)
	j.waiting = append(j.waiting, done)
	select {
	case j.kick <- struct{}{}:
	default:
	}
	return func() error { return <-done }
}

func appendRecord(b, record []byte) []byte {
	from := len(b)
	b = append(append(b, byte(len(record))), record...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

func parseRecord(b []byte) (record, rest []byte, ok bool) {
	n := 1 + int(b[0])
	if n == 1 || len(b) < n+4 || binary.BigEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) {
		return nil, nil, false
	}
	return b[1:n], b[n+4:], true
}

// run writes what was appended: one write and one sync for all that came while
// the last was under way.
func (j *Journal) run() {
	defer close(j.done)
	for {
		select {
		case <-j.kick:
			j.flush()
		case <-j.stop:
			j.flush()
			return
		}
	}
}

func (j *Journal) flush() {
	j.mu.Lock()
	b, waiting, f := j.pending, j.waiting, j.f
	j.pending, j.waiting = nil, nil
	if len(waiting) == 0 {
		j.mu.Unlock()
		return
	}
	var err error
	if f == nil {
		err = fmt.Errorf("state %q: the journal is not open", j.name)
	} else if _, err = f.Write(b); err == nil {
		// Not under mu: who appends must not wait for the disk. Filter closes f only
		// when it has written all anew, and synced that.
		j.mu.Unlock()
		err = j.d.syncFile(f)
		if errors.Is(err, os.ErrClosed) {
			err = nil
		}
		j.mu.Lock()
	} else {
		// A part of it may be there, which would end the journal for the next: only
		// Filter writes it whole again.
		f.Close()
		j.f = nil
	}
	j.mu.Unlock()
	for _, done := range waiting {
		done <- err
	}
}

// Close writes what was appended and closes the journal. It is idempotent.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	close(j.stop)
	<-j.done
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	err := j.f.Close()
	j.f = nil
	return err
}
