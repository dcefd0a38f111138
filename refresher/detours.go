package refresher

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// besides goes on where another node does not end its renewal: with the grant
// itself where there is one, which spends nothing.
func (n *renewal) besides() (outcome, error) {
	if n.r.options.OneUse {
		return outcome{held: true}, &tokensource.Error{Reason: errBusy.Error(), RetryAfter: time.Second}
	}
	return n.obtainAndSave(n.bare())
}

// bare is the token to begin with, without a refresh token.
func (n *renewal) bare() *tokensource.Token {
	if n.state.token == nil {
		return nil
	}
	return n.state.token.WithoutRefreshToken()
}

// withoutStore goes on where the storage fails. A refresh token is spent only
// where it is known to be the newest, and nobody else to have it.
func (n *renewal) withoutStore(failure error) (outcome, error) {
	previous := n.state.token
	unsure := (!n.state.granted || n.state.tried) && (n.store().Shared() || n.state.shared || n.state.looked.IsZero())
	switch {
	case n.r.options.OneUse && unsure: // nor is it known whether a person has authorized it
		return outcome{held: true}, &tokensource.Error{
			Reason:     "the storage fails, so that a refresh token might be spent twice: " + failure.Error(),
			RetryAfter: time.Second,
		}
	case n.spends() && !n.r.options.OneUse:
		previous = n.bare()
	}
	out, err := n.obtain(previous)
	if err == nil {
		n.advance(&out, failure)
	}
	return out, err
}

// overUnreadable goes on where what is stored cannot be read.
func (n *renewal) overUnreadable(failure error) (outcome, error) {
	unreadable, _ := errors.AsType[*Unreadable](failure)
	switch {
	case n.r.options.OneUse:
		remedy := "; to begin anew, configure a new refresh token and remove that entry"
		switch {
		case unreadable.Newer:
			remedy = "; run that version here as well"
		case n.r.options.Person:
			remedy = "; to begin anew, authorize the source again"
		}
		return outcome{}, &tokensource.Error{
			Reason:                unreadable.Reason + remedy,
			Permanent:             true,
			AuthorizationRequired: n.r.options.Person && !unreadable.Newer,
			Changed: func() bool {
				_, err := n.store().load()
				return err == nil
			},
		}
	case unreadable.Newer:
		out, err := n.obtain(n.bare())
		if err == nil {
			n.advance(&out, failure)
		}
		return out, err
	}
	n.e.Log.Warn("what is stored of this source cannot be read; it is set aside", zap.String("reason", unreadable.Reason))
	if err := n.store().do(n.store().SetAside); err != nil {
		return n.withoutStore(err)
	}
	n.state.token = n.bare() // what was there may have been newer
	return outcome{}, nil
}

func isUnreadable(err error) bool {
	_, unreadable := errors.AsType[*Unreadable](err)
	return unreadable
}
