package injecttoken

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// DefaultReplayBuffer is the largest request body that can be sent once more,
// in bytes.
const DefaultReplayBuffer = 64 << 10

// maxReplayBuffer is the most that replay_buffer can be.
const maxReplayBuffer = 1 << 30

// checkReplay finds what is wrong with the options of a replay.
func (t *Transport) checkReplay() *mistake {
	for _, status := range t.ReplayOn {
		if status < 300 || status > 599 {
			return wrong("replay_on", "%d is not a status by which an API refuses a token, such as 401", status)
		}
	}
	if t.ReplayBuffer != nil && t.replayOff() {
		return wrong("replay_buffer", "with replay_on off nothing is sent twice, so that nothing is kept")
	}
	if t.ReplayBuffer != nil && (*t.ReplayBuffer < 0 || *t.ReplayBuffer > maxReplayBuffer) {
		return wrong("replay_buffer", "write a size up to 1GiB, such as 64KiB; each request that is under way may take as much memory")
	}
	return nil
}

// refuses says whether an answer means that the token is dead. A token that
// lacks a scope is not, nor one whose proof lacked a nonce.
func (t *Transport) refuses(resp *http.Response) bool {
	switch {
	case resp.StatusCode < 300:
		return false
	case len(t.ReplayOn) == 0 && resp.StatusCode != http.StatusUnauthorized,
		len(t.ReplayOn) > 0 && !slices.Contains(t.ReplayOn, resp.StatusCode):
		return false
	}
	return !challenges(resp, "insufficient_scope") && !challenges(resp, wrongNonce)
}

// challenges says whether an answer names an error as the reason of its challenge
// (RFC 6750, section 3).
func challenges(resp *http.Response, code string) bool {
	return slices.ContainsFunc(resp.Header["Www-Authenticate"], func(challenge string) bool { return strings.Contains(challenge, code) })
}

// replay sends a request once more whose token the upstream has refused. Where
// it cannot be, or where there is no other token, the refusal is the answer: it
// is held back until then.
//
// A token that another request, or another node, had got before may have been
// revoked with the first one. Only then the request is sent a third time.
//
// Where tokens of other sources stand beside it, nobody knows which one was refused:
// all are reported.
func (t *Transport) replay(req *http.Request, refusal *http.Response, body *body, use *use, sent *formed, began time.Time, again bool) (*http.Response, error) {
	token := sent.token
	caused := use.refresher.Report(token)
	othersCaused := use.reportOthers(sent)
	if t.replayOff() || !body.hold(req.Context()) {
		use.tell(req, refused)
		return refusal, nil
	}
	ctx, cancel := t.patience(req.Context(), began)
	next, fresh := use.refresher.Replacement(ctx, token)
	if heir := use.successor(); next == nil && heir != nil {
		use = heir
		if _, err := use.refresher.Token(ctx); err == nil {
			caused = use.refresher.Report(token)
			next, fresh = use.refresher.Replacement(ctx, token)
		}
	}
	if replaced := use.replaceOthers(ctx, sent); next == nil && replaced {
		next, fresh = use.refresher.Current(), true
	}
	cancel()
	var formed *formed
	if next != nil {
		formed, _ = t.form(req.Context(), use, next, began)
	}
	if formed == nil || formed.err != nil {
		body.letGo()
		use.tell(req, refused)
		return refusal, nil
	}
	resp, err := t.sendAgain(req, body, use, formed)
	if err == nil && wantsNonce(resp, formed.token) {
		resp, err = t.proveAgain(req, resp, body, use, formed)
	}
	if _, ok := errors.AsType[reverseproxy.DialError](err); ok && body != nil {
		// reverse_proxy would try the next upstream, with a body that was read.
		use.tell(req, refused)
		if body.wasWhole() {
			return refusal, nil
		}
		refusal.Body.Close() // it was cut off with the first attempt
		return nil, errors.New("the upstream refused the token, and was gone when the request was to be sent once more: " + err.Error())
	}
	refusal.Body.Close()
	switch {
	case err != nil:
		use.tell(req, sentOutcome(replayed, err))
	case !t.refuses(resp):
		use.tell(req, replayed)
		if caused {
			use.refresher.Cured()
		}
		for _, other := range othersCaused {
			other.refresher.Cured()
		}
	case !fresh && !again:
		return t.replay(req, resp, body, use, formed, began, true)
	default:
		use.tell(req, refused)
		use.refresher.Report(next)
		use.reportOthers(formed)
	}
	return resp, err
}

// proveAgain sends a request once more whose proof lacked the API's nonce. The token is
// not refused by that. Where the body cannot be sent twice, the next request has the
// nonce.
func (t *Transport) proveAgain(req *http.Request, refusal *http.Response, body *body, use *use, formed *formed) (*http.Response, error) {
	if t.replayOff() || !body.hold(req.Context()) {
		return refusal, nil
	}
	refusal.Body.Close()
	return t.sendAgain(req, body, use, formed)
}

// sendAgain sends a request once more, whose body is held.
func (t *Transport) sendAgain(req *http.Request, body *body, use *use, formed *formed) (*http.Response, error) {
	body.rewind()
	attempt, out := t.injection.newAttempt(req)
	t.clean(out, use)
	body.attach(out)
	return t.inject(attempt, out, formed)
}

// reportOthers reports the tokens of other sources, and returns those sources of
// which this was the cause of a token request.
func (u *use) reportOthers(sent *formed) (caused []*use) {
	for i, other := range u.others {
		if other.refresher.Report(sent.others[i]) {
			caused = append(caused, other)
		}
	}
	return caused
}

// replaceOthers waits for what takes the place of the tokens of other sources that
// were reported, and says whether there is any.
func (u *use) replaceOthers(ctx context.Context, sent *formed) (replaced bool) {
	for i, other := range u.others {
		if next, _ := other.refresher.Replacement(ctx, sent.others[i]); next != nil {
			replaced = true
		}
	}
	return replaced
}

func (t *Transport) replayOff() bool { return t.ReplayOn != nil && len(t.ReplayOn) == 0 }

func (t *Transport) replayBuffer() int64 {
	switch {
	case t.replayOff():
		return -1
	case t.ReplayBuffer != nil:
		return *t.ReplayBuffer
	}
	return DefaultReplayBuffer
}
