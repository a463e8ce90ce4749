// Package upkeep is what a member does every twenty seconds beside keeping its
// connections, which package mesh does: it drops what belongs to those who are no
// members any more, compares revocation lists with a few others, renews its own
// membership, and looks for the servers of the database that it should be connected to
// (DESIGN §8).
package upkeep
