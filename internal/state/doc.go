// Package state keeps what a node must remember across restarts: small JSON
// documents in one directory that one process at a time may use.
//
//	dir/lock         held with a file lock while the Dir is open
//	dir/<name>.json  one document, written whole
//	dir/<name>.journal  records that are appended
//
// A file is an envelope around the document:
//
//	{"format":"idloc-state","version":1,"name":"lsi","sha256":"<hex>","data":…}
//
// sha256 is over the compact form of data. Files are replaced atomically
// (written beside, synced, renamed, the directory synced) with mode 0600 in a
// directory of mode 0700, so that a crash leaves the old document or the new
// one.
//
// A file that is damaged, of another version, or open to other users gives an
// error that names it, and Save refuses that name from then on: whatever is
// left of a key or a certificate stays for its owner to look at. What can be made
// anew is read with LoadCache, which puts such a file aside as
// <name>.json.damaged instead, and saved with Keep, which warns where Save fails.
//
// A directory that cannot be written, or is full, can be opened and read: what is
// locked in it then is the lock file if there is one, and the directory.
//
// # Files
//
//	dir.go          Dir: Open, Load, Save, Close     DESIGN §3 (Config.Dir)
//	cache.go        what can be made anew            —
//	lock.go         who has the directory            —
//	envelope.go     the file format                  —
//	journal.go      small records, appended          —
//	lock_unix.go    flock(2)                         —
//	lock_windows.go LockFileEx                       —
//	lock_other.go   systems without a file lock      —
//	perm_*.go       who may read a file              —
package state
