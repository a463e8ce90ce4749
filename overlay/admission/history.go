package admission

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	// DocHistory is what this peer has seen the authorities and issuers do.
	DocHistory = "history"
	// historyMax is how many happenings are kept, the newest.
	historyMax = 1024
	// happeningText bounds Happening.Text, in bytes: of a long policy it is the beginning.
	happeningText = 1024
)

// Happening is something that was done to the overlay, as this peer has seen it: what
// authorities say every member sees; whom an issuer has invited and confirmed that issuer
// alone.
type Happening struct {
	Time time.Time `json:"time"` // by the clock of who did it
	// What is one of promoted, demoted, threshold, revoked, granted, unattended, invited,
	// confirmed.
	What string   `json:"what"`
	Whom string   `json:"whom,omitempty"` // the name of a member, or the ID of an invitation
	Key  string   `json:"key,omitempty"`  // of whom, in hex
	Text string   `json:"text,omitempty"` // more of it
	By   []string `json:"by"`             // names of who has signed it
	Keys []string `json:"keys"`           // their keys, in hex, in the order of By
}

// history keeps what has happened. It is safe for concurrent use.
type history struct {
	log   *slog.Logger
	dir   *state.Dir // nil keeps nothing on disk
	mu    sync.Mutex // guards the rest
	all   []Happening
	dirty bool // the disk lacks some
}

func newHistory(dir *state.Dir, log *slog.Logger) *history {
	h := &history{log: log, dir: dir}
	if dir == nil {
		return h
	}
	if _, aside := dir.LoadCache(DocHistory, &h.all); aside != nil {
		log.Warn("saved state is damaged and begun anew", "name", DocHistory, "err", aside)
	}
	return h
}

// keep writes what is new.
func (h *history) keep() {
	h.mu.Lock()
	all := slices.Clone(h.all)
	dirty := h.dirty
	h.dirty = false
	h.mu.Unlock()
	if dirty && h.dir != nil {
		h.dir.Keep(h.log, DocHistory, all)
	}
}

func (h *history) add(v Happening) {
	if len(v.Text) > happeningText {
		v.Text = v.Text[:happeningText] + "…"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.all) >= historyMax {
		h.all = slices.Clone(h.all[1:])
	}
	h.all, h.dirty = append(h.all, v), true
}

// adopted notes what l says that old, which was in force before, did not.
func (h *history) adopted(old, l *membership.RevocationList, r *Roster) {
	old = old.Untold() // of what was told besides nothing is noted yet
	names := r.namesOf(old)
	sign := func(v Happening, at time.Time, keys []membership.Key) Happening {
		v.Time = at
		for _, k := range keys {
			v.By, v.Keys = append(v.By, names(k)), append(v.Keys, k.String())
		}
		return v
	}
	known := old.Changes()
	for i, c := range l.Changes() {
		if i < len(known) && known[i].At.Equal(c.At) && known[i].Kind == c.Kind && known[i].Authority.Key == c.Authority.Key {
			continue
		}
		v := Happening{What: "threshold", Text: r.changeInWords(c)}
		switch c.Kind {
		case membership.ChangePromote:
			v = Happening{What: "promoted", Whom: c.Authority.Name, Key: c.Authority.Key.String()}
		case membership.ChangeDemote:
			v = Happening{What: "demoted", Whom: names(c.Authority.Key), Key: c.Authority.Key.String()}
			if c.Void {
				v.Text = "what it has signed is void"
			}
		}
		h.add(sign(v, c.At, c.Signers))
	}
	for _, e := range l.Entries() {
		if old.Covers(e) {
			continue
		}
		h.add(sign(Happening{What: "revoked", Whom: r.revocationInWords(e), Key: e.Key.String()}, l.Issued(), l.Signers()))
	}
	if p := l.Policy(); p.Number() != old.Policy().Number() {
		h.add(sign(Happening{What: "granted", Text: p.Text()}, p.At(), l.Signers()))
	}
	if l.Unattended() != old.Unattended() {
		h.add(sign(Happening{What: "unattended", Text: l.Unattended().String()}, l.Issued(), l.Signers()))
	}
}

// note notes what this peer has done as an issuer.
func (r *Roster) note(v Happening) {
	v.Time = r.now().UTC().Truncate(time.Second)
	v.By, v.Keys = []string{r.Own().Label}, []string{membership.KeyOf(r.self).String()}
	r.history.add(v)
}

// History returns what this peer has seen happen, oldest first.
func (r *Roster) History() []Happening {
	r.history.mu.Lock()
	defer r.history.mu.Unlock()
	return slices.Clone(r.history.all)
}
