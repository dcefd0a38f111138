package refresher

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// mostStarts is how often a renewal is begun again in which the process was
// frozen.
const mostStarts = 5

var (
	errNothingNewer = errors.New("the storage holds nothing newer")
	errNewer        = errors.New("the storage holds what is newer, and has ended")
	errBusy         = errors.New("another node has not ended its renewal")
	errFrozen       = errors.New("this process was frozen before it sent a refresh token")
)

// renewal is one way to a new token: to adopt what another node has stored, or
// else to obtain one and to store it before it is used. A refresh token is not
// spent before this node has said so in the storage and seen that no other does
// (docs/cluster.md).
//
// It belongs to one flight, has the turn of its lineage, and ends with both.
type renewal struct {
	r     *Refresher
	e     *Environment
	look  bool  // only for what is stored
	state state // to be given back

	unlock  func()
	claim   uint64 // the number of this node's intent
	claimed bool   // it is stored
	signs   *signs // of it
	spent   bool   // the refresh token was sent, and the outcome is not stored
}

// outcome is what a renewal has come to.
type outcome struct {
	token   *tokensource.Token
	version version
	adopted bool  // it was in the storage
	unsaved error // why it could not be stored
	held    bool  // nobody was asked, and that is looked at again each second
	grants  int   // the Refresher's, when it had the turn

	lifetime time.Duration // of the newest token, where there is no other
}

// renew obtains one token.
func (r *Refresher) renew(e *Environment, look bool) (out outcome, err error) {
	newest, err := r.takeTurn()
	grants := r.countGrants()
	if err != nil {
		return outcome{grants: grants}, err
	}
	defer func() { out.grants = grants }()
	n := &renewal{r: r, e: e, look: look, state: newest, signs: new(signs)}
	defer func() { r.options.Lineage.newest <- n.state }()
	defer func() {
		if n.state.token != nil {
			out.lifetime = n.state.token.Lifetime
		}
	}()
	defer func() {
		if recover() != nil { // its value may hold a secret
			out, err = outcome{}, e.panicked()
		}
		n.leave()
	}()
	return n.run()
}

// panicked logs where a panic came from that was recovered from.
func (e *Environment) panicked() error {
	e.Log.Error("panic in a token request", zap.ByteString("stack", debug.Stack()))
	return &tokensource.Error{Reason: "panic in a token request; the log has its stack"}
}

func (r *Refresher) countGrants() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.grants
}

// store is that of the newest configuration: the one with which a renewal has
// begun may be closed meanwhile.
func (n *renewal) store() *patientStore {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	if e := n.r.environment(); e != nil {
		return e.store
	}
	if store := n.r.options.Lineage.store.Load(); store != nil { // that of another refresher
		return store
	}
	return n.e.store
}

// takeTurn waits for the newest token of the lineage, which is to be given back.
func (r *Refresher) takeTurn() (newest state, err error) {
	select {
	case newest = <-r.options.Lineage.newest:
		return newest, nil
	default:
	}
	timer := time.NewTimer(r.options.Timeout) // the token request has all of its own
	defer timer.Stop()
	select {
	case newest = <-r.options.Lineage.newest:
		return newest, nil
	case <-r.closed:
		return state{}, errEnded
	case <-timer.C:
		return state{}, &tokensource.Error{Reason: "a token request of another configuration of this source has not ended"}
	}
}

// ending is closed where no refresh token may be sent any more, since there may
// be no time left to store what comes of it.
func (n *renewal) ending() <-chan struct{} {
	if n.spends() {
		return n.r.finishing
	}
	return nil
}

func (n *renewal) hasEnded() bool {
	select {
	case <-n.ending():
		return true
	default:
		return false
	}
}

func (n *renewal) run() (outcome, error) {
	if n.store() == nil {
		if n.look {
			return outcome{}, errNothingNewer
		}
		if n.hasEnded() {
			return outcome{}, errEnded
		}
		return n.obtain(n.state.token)
	}
	for range mostStarts {
		out, err := n.begin()
		if err == errFrozen {
			n.leave()
			continue
		}
		return out, err
	}
	return outcome{}, &tokensource.Error{Reason: errFrozen.Error()}
}

// begin goes through one renewal.
func (n *renewal) begin() (outcome, error) {
	before := n.state.version()
	found, err := n.adopt()
	if err == nil && n.look && n.state.token != nil && n.state.version() != before {
		err = errNewer
	}
	if err == nil && found.token == nil && n.state.unsaved && !n.look {
		err = n.r.keepIn(n.store(), &n.state)
	}
	switch {
	case found.token != nil:
		return found, nil
	case n.look:
		return outcome{version: n.state.version()}, cmp.Or(err, errNothingNewer)
	case errors.Is(err, ErrNoIdentity):
		out, err := n.obtain(n.state.token)
		if err == nil {
			n.advance(&out, ErrNoIdentity)
		}
		return out, err
	case n.hasEnded():
		return outcome{}, errEnded
	case err != nil && !isUnreadable(err):
		return n.withoutStore(err)
	}
	if found, err = n.lock(); found.token != nil {
		return found, nil
	}
	switch {
	case err == error(errEnded):
		return outcome{}, err
	case err != nil && err != errBusy: // which is done without the lock
		return n.withoutStore(err)
	}
	found, err = n.adopt()
	switch {
	case found.token != nil:
		return found, nil
	case isUnreadable(err):
		if found, err = n.overUnreadable(err); found.token != nil || err != nil {
			return found, err
		}
	case err != nil:
		return n.withoutStore(err)
	}
	if !n.spends() {
		return n.obtainAndSave(n.state.token)
	}
	if n.r.options.OneUse && n.state.lost && n.lives() {
		return outcome{held: true}, &tokensource.Error{
			Reason:     "the storage has lost what was in it; whoever has the newest token stores it again",
			RetryAfter: time.Second,
		}
	}
	switch found, err = n.intend(); {
	case found.token != nil:
		return found, nil
	case err == error(errEnded):
		return outcome{}, err
	case err == errBusy:
		return n.besides()
	case err != nil:
		return n.withoutStore(err)
	}
	return n.obtainAndSave(n.state.token)
}

// adopt takes over what is stored, if it is newer. The token is one to use if it
// is alive; else it is the one to begin with.
func (n *renewal) adopt() (outcome, error) {
	now := n.r.now()
	if n.state.granted {
		if err := n.r.keepIn(n.store(), &n.state); err != nil {
			return outcome{}, err
		}
	}
	record, err := n.store().load()
	if err != nil {
		return outcome{}, err
	}
	since := n.state.looked
	n.state.looked = now
	switch {
	case record != nil && n.state.isBehind(record) && n.state.isOther(record): // it is another storage, or a grant
		since = time.Time{}
	case record == nil && n.state.counter > 0, record != nil && record.version().compare(n.state.version()) < 0:
		n.state.lost = n.state.lost || !n.state.unsaved
		n.state.unsaved = true
		return outcome{}, nil
	case record == nil:
		return outcome{}, nil
	case record.version() == n.state.version() && !n.isBehind():
		return outcome{}, nil
	case record.version() == n.state.version():
		since = time.Time{} // it was there when that was
	default:
		n.state.shared = n.state.shared || record.Shared || !since.IsZero()
	}
	n.state.take(record, onThisClock(record.Token, since, now))
	if record.Token == nil {
		n.r.forget(record.version())
		return outcome{}, nil
	}
	if record.Foreign {
		if !n.r.options.OneUse { // nor is its refresh token for us
			n.state.token = n.bare()
		}
		return outcome{}, nil
	}
	if !alive(n.state.token, now) {
		return outcome{}, nil
	}
	return outcome{token: n.state.token, version: record.version(), adopted: true}, nil
}

// isBehind says whether this refresher does not have the newest token of the
// lineage. One of another configuration may have left its own there, or a person.
func (n *renewal) isBehind() bool {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	if n.state.token == nil {
		return n.r.obtained != nil
	}
	return n.r.obtained == nil || n.r.obtained.AccessToken != n.state.token.AccessToken
}

// obtainAndSave obtains a token and stores it.
func (n *renewal) obtainAndSave(previous *tokensource.Token) (outcome, error) {
	out, err := n.obtain(previous)
	if err != nil {
		if err != errFrozen && n.spends() && n.claimed && isRefusal(err) {
			// Another node may have spent the refresh token, and have stored what
			// it got.
			if found, failed := n.adopt(); failed == nil && found.token != nil {
				return found, nil
			}
		}
		return outcome{}, err
	}
	record, failure := n.store().load()
	if failure == nil && record != nil && n.state.isBehind(record) {
		// Somebody went on, while this process was frozen or had no lock.
		n.spent = false
		found, err := n.adopt()
		switch {
		case err == nil && found.token != nil:
			return found, nil
		case n.claimed: // theirs has ended, but its refresh token is the newest
			return outcome{}, errFrozen
		}
	}
	n.advance(&out, nil)
	if failure == nil || isUnreadable(failure) {
		failure = n.store().save(n.state.record())
	}
	if failure != nil {
		out.unsaved = failure
		return out, nil
	}
	n.state.unsaved, n.state.claim, n.spent = false, 0, false
	return out, nil
}

func isRefusal(err error) bool {
	e := cause(err)
	return e.Permanent || e.RefreshTokenRefused
}

// advance makes a token that was obtained the newest.
func (n *renewal) advance(out *outcome, unsaved error) {
	if n.state.counter == 0 {
		n.state.origin = rand.Text() // a history begins
	}
	n.state.counter++
	n.state.lost = false
	n.state.token, n.state.unsaved, n.state.claim = out.token, true, 0
	if n.spent {
		n.state.claim = n.claim
	}
	out.version, out.unsaved = n.state.version(), unsaved
}

// obtain asks the source.
func (n *renewal) obtain(previous *tokensource.Token) (outcome, error) {
	ctx, cancel := context.WithTimeout(n.r.base, n.r.options.Timeout)
	defer cancel()
	var frozen, spent, over atomic.Bool // a transport may still ask when Obtain has returned
	if n.claimed {
		ctx = tokensource.WithPermit(ctx, func() error {
			switch {
			case over.Load():
				return context.Canceled
			case !n.signs.fresh(n.r.now()):
				frozen.Store(true)
				return errFrozen
			}
			spent.Store(true)
			return nil
		})
	}
	end := n.beat()
	defer end() // also in a panic
	token, err := n.e.Source.Obtain(ctx, previous)
	over.Store(true)
	late := end()
	n.spent = spent.Load()
	if token == nil && err == nil {
		err = cause(nil)
	}
	switch {
	case frozen.Load():
		n.spent = false
		return outcome{}, errFrozen
	case err == nil:
		if late > 0 { // the answer may have lain here all that time
			old := *token
			old.Issued = old.Issued.Add(-late)
			token = &old
		}
		if n.store() == nil {
			n.state.token = token
		}
		return outcome{token: token}, nil
	case n.state.token != nil && cause(err).RefreshTokenRefused:
		n.state.token = n.bare()
	}
	n.spent = false
	return outcome{}, err
}

// onThisClock returns a token with the time of its issue by the clock of this
// machine. Clocks differ; but a token that was not there when the storage was
// looked at last is not older than that.
func onThisClock(t *tokensource.Token, since, now time.Time) *tokensource.Token {
	if t == nil {
		return nil
	}
	age := now.Round(0).Sub(t.Issued.Round(0))
	if !since.IsZero() {
		if most := apart(now, since); age < 0 || age > most {
			age = most
		}
	}
	local := *t
	local.Issued = now.Add(-max(age, 0))
	return &local
}
