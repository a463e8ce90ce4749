package state

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// damagedMark ends the names of files that were put aside.
const damagedMark = ".damaged"

// LoadCache is Load for a document that can be made anew. One that cannot be
// read does not stop anybody: its file is put aside, as <name>.json.damaged, and
// aside says what was wrong with it and where it is now. v may hold a part of it
// then. Where it cannot be put aside either, Save refuses the name, as ever.
func (d *Dir) LoadCache(name string, v any) (found bool, aside error) {
	found, err := d.Load(name, v)
	if err == nil || errors.Is(err, fs.ErrClosed) {
		return found, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.path == "" {
		delete(d.memory, name)
		delete(d.seen, name)
		return false, err
	}
	to := d.file(name) + damagedMark
	if e := os.Rename(d.file(name), to); e != nil {
		return false, fmt.Errorf("%w; it stays there, and is not written: %w", err, e)
	}
	d.seen[name] = nil
	return false, fmt.Errorf("%w; it is now %s", err, to)
}

// complainEvery is how often Keep says that a document is still not saved.
const complainEvery = time.Hour

// complaint is a name whose saving has failed.
type complaint struct {
	text string
	when time.Time
}

// Keep is Save for who goes on without. It says whether the document is on the
// disk; if not, the log says so at Warn, for each name at first, when the reason
// is another one, and then once an hour, and when it can be saved again. A nil
// Dir keeps nothing and is content.
func (d *Dir) Keep(log *slog.Logger, name string, v any) bool {
	if d == nil {
		return true
	}
	err := d.Save(name, v)
	d.Complain(log, name, err)
	return err == nil
}

// Complain says what has become of saving under a name, as Keep does: for who has
// a Journal.
func (d *Dir) Complain(log *slog.Logger, name string, err error) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	was, failed := d.failed[name]
	switch {
	case err == nil && failed:
		delete(d.failed, name)
		log.Info("state is saved again", "name", name)
	case err == nil:
	case errors.Is(err, fs.ErrClosed):
	case !failed || was.text != reason(err) || time.Since(was.when) >= complainEvery:
		d.failed[name] = complaint{reason(err), time.Now()}
		log.Warn("state is not saved: this node goes on, but a restart begins with what was saved before", "name", name, "err", err)
	}
}

// reason is what two errors of one kind have in common: the names of the
// temporary files in them differ.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// takes says why nothing is saved now under a name, nil if something is.
func (d *Dir) takes(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return fmt.Errorf("state %q: %w", name, d.broken)
	}
	if d.closed && d.path == "" {
		return fmt.Errorf("state %q: %w", name, fs.ErrClosed)
	}
	return nil
}

// Break lets every Save fail with err from now on, nil none: a disk that is full
// or cannot be written, for tests.
func (d *Dir) Break(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
}
