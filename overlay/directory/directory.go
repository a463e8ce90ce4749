package directory

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// Errors of this package, found by errors.Is.
var (
	// ErrNotFound: enough of the servers that would keep the name's record
	// have answered that there is none.
	ErrNotFound = errors.New("no such name")
	// ErrRevoked is an ErrNotFound: the member that had the name was put out.
	ErrRevoked = fmt.Errorf("%w: its membership was revoked", ErrNotFound)
	// ErrUnavailable: too few servers answered to say whether a name exists.
	ErrUnavailable = errors.New("too few servers answered")
	// ErrClosed: the Directory was closed.
	ErrClosed = errors.New("closed")
)

// temporaryError marks errors that may go away by themselves, for net.Error.
type temporaryError struct{ error }

func (e temporaryError) Temporary() bool { return true }
func (e temporaryError) Timeout() bool   { return false }
func (e temporaryError) Unwrap() error   { return e.error }

// Found is what a name stands for.
type Found struct {
	Peer  peerid.ID
	Label string
	// Via is the member that gave the record; this peer itself if it was in
	// its own part of the database or cache.
	Via peerid.ID
}

// Neighbor is a member that is connected to this peer.
type Neighbor struct {
	Peer    peer.ID // as libp2p has it
	ID      peerid.ID
	Server  bool // it keeps a part of the database
	NoRelay bool // it does not pass anything on for others
}

// Mesh is the connections to members. It is safe for concurrent use.
type Mesh interface {
	// Host is libp2p's host under the mesh.
	Host() host.Host
	// Neighbors returns the connected members, in no particular order.
	Neighbors() []Neighbor
	// Member returns the member behind p if it is connected.
	Member(p peer.ID) (*membership.Member, bool)
	// IsServer says whether p is connected and a server by its last hello, Young
	// whether it is one that has only just begun.
	IsServer(p peer.ID) bool
	Young(p peer.ID) bool
	// Connect makes sure that there is a connection to a member, Dial that there
	// is one, to whomever. Wait returns once a connected peer was admitted.
	Connect(ctx context.Context, ai peer.AddrInfo) (*membership.Member, error)
	Dial(ctx context.Context, ai peer.AddrInfo) error
	Wait(ctx context.Context, p peer.ID) (*membership.Member, error)
	// Stream opens a stream to a connected member, HandleStreams serves them to
	// members only. Admitted waits until the peer behind a stream is one, and says
	// whether it is.
	Stream(ctx context.Context, p peer.ID, pid protocol.ID) (network.Stream, error)
	HandleStreams(pid protocol.ID, f func(network.Stream, *membership.Member))
	Admitted(s network.Stream) bool
	// Greet says hello to all members again: what it says has changed.
	Greet()
	// KeepNamed has the connections to the members that the contact record names
	// spared.
	KeepNamed(ids []peerid.ID)
	// Go runs f unless the mesh was stopped, whose end waits for it.
	Go(f func())
}

// Roster knows who is a member. It is safe for concurrent use.
type Roster interface {
	// Own returns this peer's chain, the label it claims, and whether an issuer
	// has confirmed it.
	Own() (chain []byte, label string, confirmed bool)
	// Note remembers a member that has shown a valid chain; Member returns one
	// that has, and is a member still.
	Note(m *membership.Member)
	Member(id peerid.ID) (*membership.Member, bool)
	// Revoked says whether a peer's membership was taken back, LabelRevoked whether
	// that of the member that had a label was, and nobody else is known to have it.
	// OnlyIssuer says whether nobody but this peer confirms labels: then it knows of
	// all that were given.
	Revoked(id peerid.ID) bool
	LabelRevoked(label string) bool
	OnlyIssuer() bool
	// OwnAccount is to whom this peer itself is charged besides.
	OwnAccount() account.Account
	Revocations() *membership.RevocationList
	// Attended is as of when issuers were there to renew who had to be.
	Attended() time.Time
}

// Config is what a Directory needs. All but State is required. The functions may be
// called from any goroutine, and none while a lock of the Directory is held.
type Config struct {
	Key     ed25519.PrivateKey // this peer's; signs its records
	Self    peerid.ID          // of Key
	Overlay membership.Overlay
	Prefix  protocol.ID      // begins the protocol IDs of the overlay
	Now     func() time.Time // the wall clock, which records are judged by
	Log     *slog.Logger
	Events  event.Sink // nil is silent
	State   *state.Dir // nil keeps nothing

	Mesh   Mesh
	Roster Roster

	// Addrs returns this peer's own addresses for its contact record: multiaddrs,
	// the best first, at most n.
	Addrs func(n int) []string
	// Remembered is how many members this peer remembers, connected or not.
	Remembered func() int
	// Tags returns which tags a member has by what the founder has said; nil: those of
	// certificates count.
	Tags func(*membership.Member) []string
	// JustBack says whether this peer has only just begun to look for the others.
	JustBack func() bool
	// ServerHeard says whether something has just come from where a server is that this
	// peer was connected to: it is there, and may be busy.
	ServerHeard func() bool
	// Piped says whether there is a live pipe to a peer.
	Piped func(peerid.ID) bool
	// Silent is told of a server that is connected and does not answer.
	Silent func(peer.ID)
	// Told is told of addresses in an answer, and returns those to keep.
	Told func(by peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr
	// Reached says whether another member has reached this peer unasked.
	// AskDialBack has members try whether they do; if DialedBack, that is
	// decided already.
	Reached     func() bool
	AskDialBack func()
	DialedBack  func() bool
}

// servers returns the members that are known to be servers and connected.
func (c *Config) servers() []peer.ID {
	var out []peer.ID
	for _, n := range c.Mesh.Neighbors() {
		if n.Server {
			out = append(out, n.Peer)
		}
	}
	return out
}

// Directory is this peer's part in the distributed database of names. It is safe for
// concurrent use.
type Directory struct {
	cfg       *Config
	db        *database
	names     *names
	users     *users
	publisher *publisher
	role      role
	runs      serverRuns

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	jobs   jobs
}

// New makes a Directory. It serves what others ask as soon as this peer is a server
// (Serve), and publishes nothing before Publish.
func New(cfg Config) (*Directory, error) {
	d := &Directory{cfg: &cfg}
	d.role.started = time.Now()
	d.ctx, d.cancel = context.WithCancel(context.Background())
	check := &naming.Validator{Overlay: cfg.Overlay, Now: cfg.Now, Revoked: cfg.Roster.Revocations, Attended: cfg.Roster.Attended, Tags: cfg.Tags}
	var err error
	if d.runs.last, err = simplelru.NewLRU[peer.ID, serverRun](serverRunsMax, nil); err != nil {
		d.cancel()
		return nil, err
	}
	if d.db, err = newDatabase(d.ctx, d.cfg, newValidator(check)); err != nil {
		d.cancel()
		return nil, err
	}
	s := loadNames(d.cfg)
	if d.names, err = newNames(d.ctx, d.cfg, d.db, check, s.Marks, &d.jobs); err != nil {
		d.db.close()
		d.cancel()
		return nil, err
	}
	if d.users, err = newUsers(d.cfg, d.db, check, d.names); err != nil {
		d.db.close()
		d.cancel()
		return nil, err
	}
	d.publisher = newPublisher(d.cfg, d.db, s.Seq)
	d.publisher.more = d.users.records
	return d, nil
}

// Run publishes and republishes this peer's records until Stop.
func (d *Directory) Run() {
	if d.jobs.begin() {
		defer d.jobs.done()
		d.publisher.run(d.ctx)
	}
}

// Stop ends what goes on, and waits for it.
func (d *Directory) Stop() {
	d.cancel()
	d.jobs.end()
}

// Close stops the Directory, takes this peer's part of the database off the mesh,
// and saves what is remembered. The mesh must still stand.
func (d *Directory) Close() {
	d.Stop()
	d.db.close()
	d.Save()
}

// jobs counts what runs, so that the end can wait for it.
type jobs struct {
	mu    sync.Mutex // guards ended
	ended bool
	wg    sync.WaitGroup
}

// begin says whether a job may begin; done must follow if so.
func (j *jobs) begin() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.ended {
		j.wg.Add(1)
	}
	return !j.ended
}

func (j *jobs) done() { j.wg.Done() }

// end lets no other begin, and waits.
func (j *jobs) end() {
	j.mu.Lock()
	j.ended = true
	j.mu.Unlock()
	j.wg.Wait()
}

// Heard is to be called with each hello of a member. server says that it keeps a part
// of the database, young that it has only just begun to, and run names the run of its
// process. What else a hello says is noted elsewhere.
func (d *Directory) Heard(p peer.ID, server, young bool, run uint64) {
	if !server {
		d.db.table.RemovePeer(p)
		return
	}
	d.db.consider(p)
	if d.runs.note(p, young, run) {
		d.db.forgetHandOver(p)
		d.publisher.forgetHolder(p)
		d.publisher.endPause()
	}
	d.serverFound(p)
}

// serverRuns is in which run of its process each server was heard last: one that begins
// anew has lost what it was given. It is safe for concurrent use.
type serverRuns struct {
	mu   sync.Mutex // guards last
	last *simplelru.LRU[peer.ID, serverRun]
}

// serverRun is one, and when it was found to have begun; zero: it was not.
type serverRun struct {
	run   uint64
	since time.Time
}

const (
	serverRunsMax = 1024
	// anewEvery is how often a server is believed that it has begun anew: what it should
	// have is given to it then, which is more than it says for that.
	anewEvery = YoungFor
)

// note says whether a server has begun anew since it was heard last. Of one that was
// not heard before it is so if it is young; all its hellos say that for a while.
func (r *serverRuns) note(p peer.ID, young bool, run uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, ok := r.last.Get(p)
	now := time.Now()
	switch {
	case !ok:
		r.last.Add(p, serverRun{run: run})
		return young
	case was.run == run || now.Sub(was.since) < anewEvery:
		return false // or its next hello says so
	}
	r.last.Add(p, serverRun{run, now})
	return true
}

// Entered is to be called when a member has come in, before Heard.
func (d *Directory) Entered() { d.publisher.contactsChanged() }

// ContactsChanged is to be called when this peer's addresses are others, or who is
// among those nearest to it.
func (d *Directory) ContactsChanged() { d.publisher.contactsChanged() }

// serverFound gives a server the records that it should have: what this peer keeps
// for others, and its own.
func (d *Directory) serverFound(p peer.ID) {
	d.cfg.Mesh.Go(func() { d.db.handOver(d.ctx, p) })
	d.publisher.serverFound(p)
}

// Left is to be called when a member's last connection is gone. One that was
// trimmed tells nothing about the member: it serves the database as before. (One
// that only says so stays in the routing table until a question to it fails.)
func (d *Directory) Left(p peer.ID, trimmed bool) {
	d.publisher.contactsChanged()
	d.db.noteLeft(p)
	if trimmed {
		return
	}
	held := d.publisher.holds(p)
	if held && d.db.small() {
		d.publisher.loseHolder(p)
		held = false
	}
	if held || d.db.knows(p) {
		// Leave a server that is gone out of the answers of this one soon:
		// the question removes it if it is not there. If it is, and has only
		// closed a connection among many, it still has what it had.
		d.cfg.Mesh.Go(func() {
			if d.db.ask(d.ctx, p, string(p)).err != nil && held {
				d.publisher.loseHolder(p)
			}
		})
	}
}

// Dismiss drops what is remembered of a peer that is no member any more, also what
// it had signed if it was revoked.
func (d *Directory) Dismiss(id peerid.ID, revoked bool) {
	d.names.forget(id)
	d.db.dismiss(toPeer(id))
	d.publisher.forgetHolder(toPeer(id))
	if revoked {
		d.names.marks.Forget(id)
		d.names.claims.forget(id)
	}
}

// Servers returns the members that are known to be servers and connected.
func (d *Directory) Servers() []peer.ID { return d.cfg.servers() }

// Nearest walks to the servers nearest a key in the DHT's key space, a peer's ID or
// any string, and returns those that answered, nearest first.
func (d *Directory) Nearest(ctx context.Context, key string) []peer.ID {
	return d.db.walk(ctx, key, nil).nearest
}

// Put stores a record that is not this peer's own at the servers nearest its key.
func (d *Directory) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	taken, err := d.db.place(ctx, key, value)
	if len(taken) == 0 {
		return err
	}
	return nil
}

// Counts tells how many servers this peer's routing table has, and how many records
// it keeps for others.
func (d *Directory) Counts() (servers, records int) {
	if d.db.isServer() {
		records = len(d.db.records(d.ctx))
	}
	return d.db.table.Size(), records
}

// savedNames is the document of what is remembered.
type savedNames struct {
	Marks *naming.HighWater `json:"marks"`
	Seq   uint64            `json:"seq"` // the last of our own records
}

// docNames is high-water marks and the own sequence number. Without marks a stale
// record may pass for news, until it expires, once; the number goes by the clock.
const docNames = "names"

func loadNames(cfg *Config) savedNames {
	s := savedNames{Marks: &naming.HighWater{}}
	if cfg.State == nil {
		return s
	}
	found, aside := cfg.State.LoadCache(docNames, &s)
	if aside != nil {
		cfg.Log.Warn("saved state is damaged and begun anew", "name", docNames, "err", aside)
	}
	if !found {
		return savedNames{Marks: &naming.HighWater{}}
	}
	return s
}

// Save writes what is remembered to the state directory.
func (d *Directory) Save() {
	d.cfg.State.Keep(d.cfg.Log, docNames, savedNames{Marks: d.names.marks, Seq: d.publisher.lastSeq()})
}
