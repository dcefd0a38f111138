package refresher

import (
	"context"
	"errors"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// Store keeps the newest token of a source where the next process finds it, and
// other nodes. One store belongs to one identity; all of its methods are called
// by one goroutine at a time, but those that hang may still be under way.
//
// Store and intents must be seen by whoever reads after a write has returned.
// The lock need not be safe: it may be lost while it is held.
type Store interface {
	// Load returns the newest record, or nil if there is none. An error that is
	// an *Unreadable says that there is one.
	Load(ctx context.Context) (*Record, error)

	// Save takes the place of the record.
	Save(ctx context.Context, r *Record) error

	// SetAside puts a record that cannot be read out of the way.
	SetAside(ctx context.Context) error

	// Intents returns those of all nodes.
	Intents(ctx context.Context) ([]Intent, error)

	// SaveIntent takes the place of an intent of the same node and claim, and
	// RemoveIntent removes one. It succeeds where there is none.
	SaveIntent(ctx context.Context, i Intent) error
	RemoveIntent(ctx context.Context, i Intent) error

	// Lock waits for the lock until the context ends. Unlock succeeds where nobody
	// holds it.
	Lock(ctx context.Context) error
	Unlock(ctx context.Context) error

	// Shared is false where most probably no other node has this storage.
	Shared() bool
}

// Record is a token as it is stored.
type Record struct {
	// Counter grows with each token that is obtained, over all nodes: a record
	// with a higher one is newer, whatever clocks say.
	Counter uint64

	// Origin is the same for all records that came one out of the other. Counters
	// of different ones do not compare.
	Origin string

	// Grant is how often a person has authorized or revoked the source. A record with
	// a higher one is newer, whatever its counter and origin.
	Grant uint64

	// Token is what was obtained; nil where it was revoked since.
	Token *tokensource.Token

	// Foreign is true where the token was obtained by other options than those
	// of this source now: its refresh token can be used, the token itself not.
	Foreign bool

	// Shared is true once several nodes were seen at work.
	Shared bool
}

// Intent says that a node is about to spend the refresh token of the record
// before Counter, or has spent it, and that the outcome is not stored yet.
type Intent struct {
	Node string

	// Claim tells the intents of one node apart: who removes one that was left
	// behind must not hit the next.
	Claim uint64

	Counter uint64

	// Beat changes each second for as long as the node is alive.
	Beat uint64
}

// Unreadable is the error of a record that is there and cannot be used.
type Unreadable struct {
	// Reason says why, and where it lies, for people.
	Reason string

	// Newer is true where a later version of this software has written it:
	// it must stay as it is.
	Newer bool
}

func (u *Unreadable) Error() string { return u.Reason }

// ErrNoIdentity is the error of a store that cannot tell whose token is wanted,
// since a secret or another text of the source cannot be had. Nothing can be
// sent then, and the source says why.
var ErrNoIdentity = errors.New("it is not known whose token is wanted")

// storePatience is how long one access of the storage may take.
const storePatience = 2 * time.Second

// ErrHangs is the error of an access that has not ended in time.
var ErrHangs = errors.New("the storage does not answer")

// patientStore bounds each access of a store in time. Not every storage heeds
// its context, so that one which hangs is left to itself; until it ends there is
// no other.
type patientStore struct {
	Store
	busy chan struct{} // holds one while an access is under way
}

func newPatientStore(s Store) *patientStore {
	return &patientStore{s, make(chan struct{}, 1)}
}

// patiently calls access and waits for it, but not for long.
func patiently[T any](s *patientStore, access func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		var none T
		return none, ErrHangs
	}
	return Patiently(ctx, storePatience, func(ctx context.Context) (T, error) {
		defer func() { <-s.busy }()
		return access(ctx)
	})
}

// Patiently calls access, which is to end with its context, and waits for it no
// longer than that. The error is ErrHangs where it has not ended by then, and is
// left to itself.
func Patiently[T any](ctx context.Context, patience time.Duration, access func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		defer cancel()
		o := outcome{err: errors.New("panic in the storage")}
		defer func() {
			_ = recover()
			done <- o
		}()
		o.value, o.err = access(ctx)
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done: // at the same time
		return o.value, o.err
	default:
		var none T
		return none, ErrHangs
	}
}

func (s *patientStore) load() (*Record, error) { return patiently(s, s.Load) }

func (s *patientStore) intents() ([]Intent, error) { return patiently(s, s.Intents) }

// do is patiently for what returns nothing.
func (s *patientStore) do(access func(context.Context) error) error {
	_, err := patiently(s, func(ctx context.Context) (struct{}, error) { return struct{}{}, access(ctx) })
	return err
}

func (s *patientStore) save(r *Record) error {
	return s.do(func(ctx context.Context) error { return s.Save(ctx, r) })
}

func (s *patientStore) saveIntent(i Intent) error {
	return s.do(func(ctx context.Context) error { return s.SaveIntent(ctx, i) })
}

func (s *patientStore) removeIntent(i Intent) error {
	return s.do(func(ctx context.Context) error { return s.RemoveIntent(ctx, i) })
}

// lock begins to wait for the lock. The channel gets how that ended; where the
// context ends first, the lock is given back when it comes nevertheless.
func (s *patientStore) lock(ctx context.Context) <-chan error {
	got := make(chan error)
	go func() {
		err := func() (err error) {
			defer func() {
				if recover() != nil {
					err = errors.New("panic in the storage")
				}
			}()
			return s.Lock(ctx)
		}()
		select {
		case got <- err:
		case <-ctx.Done():
			if err == nil {
				s.unlock()
			}
		}
	}()
	return got
}

// unlock gives the lock back. Where that fails it is tried again in the
// background, some times: a lock that nobody gives back is kept fresh for as long
// as this process lives.
func (s *patientStore) unlock() {
	if s.do(s.Unlock) == nil {
		return
	}
	go func() {
		for range 10 {
			time.Sleep(time.Second)
			if s.do(s.Unlock) == nil {
				return
			}
		}
	}()
}
