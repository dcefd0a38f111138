package refresher

import (
	"context"
	"runtime/debug"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// Authorize makes what a person has authorized the newest token. Exchange gets it
// from the provider, on a context of the refresher's own: who waits for it may
// leave. It takes the place of every token that is there, on all nodes.
//
// The first result is false where the token could not be stored yet: it is in
// use, and storing is tried again. The error is a *tokensource.Error.
func (r *Refresher) Authorize(exchange func(context.Context) (*tokensource.Token, error)) (token *tokensource.Token, stored bool, err error) {
	err = r.outside(func(ctx context.Context, n func() (*renewal, error)) error {
		if token, err = exchange(ctx); err != nil {
			return cause(err)
		}
		turn, err := n()
		if err != nil {
			return cause(err)
		}
		stored = turn.grant(token)
		r.granted(token, turn.state.counter, stored)
		turn.e.Log.Info("authorized", tokenFields(token, turn.state.counter)...)
		return nil
	})
	return token, stored, err
}

// grant makes a token the newest of the lineage, and of the storage if it can be.
func (n *renewal) grant(token *tokensource.Token) (stored bool) {
	n.state.token, n.state.unsaved, n.state.granted, n.state.lost, n.state.claim = token, true, true, false, 0
	n.state.looked = n.r.now()
	if n.store() == nil {
		n.state.granted = false
		return true
	}
	_, _ = n.lock() // which another node may hold for long: a grant outranks what it stores
	return n.r.keepIn(n.store(), &n.state) == nil
}

// granted publishes what a person has authorized.
func (r *Refresher) granted(token *tokensource.Token, counter uint64, stored bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grants++
	r.landed(token, 0)
	r.counter = counter
	r.refusals = refusals{}
	if !stored {
		r.unsaved = true
		r.keep()
	}
}

// Revoke has the newest token given back to its provider, and forgets it, on all
// nodes. Where that fails nothing is forgotten. The error is a *tokensource.Error.
func (r *Refresher) Revoke(revoke func(context.Context, *tokensource.Token) error) error {
	return r.outside(func(ctx context.Context, n func() (*renewal, error)) error {
		turn, err := n()
		if err != nil {
			return cause(err)
		}
		if turn.store() != nil {
			if _, err := turn.lock(); err == error(errEnded) {
				return errEnded
			}
			_, _ = turn.adopt() // the newest is the one to be revoked
		}
		if token := turn.state.token; token != nil {
			if err := revoke(ctx, token); err != nil {
				return cause(err)
			}
		}
		stored := turn.grant(nil)
		r.mu.Lock()
		r.grants++
		if !stored {
			r.unsaved = true
			r.keep()
		}
		r.mu.Unlock()
		r.forget(turn.state.counter)
		turn.e.Log.Info("revoked")
		return nil
	})
}

// forget drops what was obtained. The counter is that of the storage.
func (r *Refresher) forget(counter uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counter = counter
	r.current.Store(nil)
	r.obtained = nil
	r.suspect = false
	r.doubtful.Store(false)
	if r.flight == nil {
		r.stopTimer()
		r.failures, r.failure = 0, nil
		if r.options.Person {
			defer r.fly() // which finds that a person is needed, and says so
		}
	}
}

// outside does what is no renewal and takes the turn of the lineage all the same,
// when turn is called. The end of the refresher waits for it.
func (r *Refresher) outside(do func(ctx context.Context, turn func() (*renewal, error)) error) (err error) {
	r.mu.Lock()
	e := r.environment()
	select {
	case <-r.finishing:
		e = nil
	default:
	}
	if e == nil {
		r.mu.Unlock()
		return errEnded
	}
	r.authorizing.Add(1)
	r.mu.Unlock()
	defer r.authorizing.Done()
	ctx, cancel := context.WithTimeout(r.base, r.options.Timeout)
	defer cancel()
	var n *renewal
	defer func() {
		if recover() != nil { // its value may hold a secret
			e.Log.Error("panic in a token request", zap.ByteString("stack", debug.Stack()))
			err = &tokensource.Error{Reason: "panic in a token request; the log has its stack"}
		}
		if n != nil {
			n.leave()
			r.options.Lineage.newest <- n.state
		}
	}()
	return do(ctx, func() (*renewal, error) {
		newest, err := r.takeTurn(nil) // what a person has done is worth it, also at the end
		if err != nil {
			return nil, err
		}
		n = &renewal{r: r, e: e, state: newest, signs: new(signs)}
		return n, nil
	})
}

// awaitAuthorizing waits until the context ends, or returns true.
func (r *Refresher) awaitAuthorizing(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		r.authorizing.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
