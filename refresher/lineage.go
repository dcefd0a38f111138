package refresher

import (
	"cmp"
	"crypto/rand"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// Lineage is the tokens that descend from one refresh token, each of which may
// be spent for the next. Refreshers that share a lineage ask one at a time, and
// each begins with the newest token of them all. Between processes a Store does
// what a lineage does within one.
type Lineage struct {
	newest chan state // empty while somebody has the turn
	node   string     // its name among all that share a storage
	claims atomic.Uint64
	store  atomic.Pointer[patientStore] // of the configuration that was started last

	// others are those whose intents were seen; whoever has the turn may touch it.
	others map[claimID]*other
}

// state is the newest token of a lineage, and what is known of its storage.
type state struct {
	token   *tokensource.Token
	counter uint64
	origin  string // which history of records counter belongs to
	grant   uint64 // how often a person has authorized or revoked it

	looked  time.Time // when the storage was read last; zero: never
	shared  bool      // another node was seen at work
	unsaved bool      // token could not be stored
	granted bool      // a person has authorized or revoked it, and that is not stored
	tried   bool      // to store that was tried, and may have succeeded all the same
	lost    bool      // the storage has lost the record, and others may have a newer one
	claim   uint64    // of the intent by which it was obtained, while it is unsaved; 0: none
}

// NewLineage returns a lineage without a token.
func NewLineage() *Lineage {
	l := &Lineage{newest: make(chan state, 1), node: strings.ToLower(rand.Text()[:16]), others: make(map[claimID]*other)}
	l.newest <- state{}
	return l
}

// version is how new a record is, within one storage.
type version struct{ grant, counter uint64 }

func (r *Record) version() version { return version{r.Grant, r.Counter} }

// compare returns whether v is newer (1), older (-1) or the same as other.
func (v version) compare(other version) int {
	return cmp.Or(cmp.Compare(v.grant, other.grant), cmp.Compare(v.counter, other.counter))
}

func (s *state) version() version { return version{s.grant, s.counter} }

// isOther says whether a record is of another history.
func (s *state) isOther(r *Record) bool { return s.origin != "" && r.Origin != s.origin }

// isBehind says whether a record is to be taken: what a person has done is newer
// than what was there before, another history is that of a storage which others
// have had before us, and within one the counter tells.
func (s *state) isBehind(r *Record) bool {
	if r.Grant == s.grant && s.isOther(r) {
		return true
	}
	return r.version().compare(s.version()) > 0
}

// take makes a record the newest.
func (s *state) take(r *Record, token *tokensource.Token) {
	s.token, s.counter, s.origin, s.grant = token, r.Counter, r.Origin, r.Grant
	s.unsaved, s.lost, s.granted, s.tried, s.claim = false, false, false, false, 0
}

// begin makes what a person has done the newest: nil where that was to revoke. A
// history begins with it.
func (s *state) begin(token *tokensource.Token, now time.Time) {
	s.token, s.origin, s.looked = token, rand.Text(), now
	s.counter++
	s.grant++
	s.unsaved, s.granted, s.tried, s.lost, s.claim = true, true, false, false, 0
}

// outrank numbers what a person has done so that it is newer than a record.
func (s *state) outrank(r *Record) {
	s.counter, s.grant = max(s.counter, r.Counter+1), max(s.grant, r.Grant+1)
	s.shared = s.shared || r.Shared
}

func (s *state) record() *Record {
	return &Record{Counter: s.counter, Origin: s.origin, Grant: s.grant, Token: s.token, Shared: s.shared}
}
