package injecttoken

import (
	"errors"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddytoken/inject-token/refresher"
)

// mostCallerToken is how long a caller's token is at most; with a larger header no
// server would answer.
const mostCallerToken = 16 << 10

// callerToken returns the token that a caller brings along (RFC 6750, section 2.1),
// or "". Two of them are none: it is not for us to choose.
func callerToken(req *http.Request) string {
	fields := req.Header["Authorization"]
	if len(fields) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(fields[0], " ")
	token = strings.Trim(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || len(token) > mostCallerToken ||
		strings.ContainsAny(token, " ,") || !httpguts.ValidHeaderFieldValue(token) {
		return ""
	}
	return token
}

// ofCaller returns the use of a source for one caller, whose token is exchanged.
func (u *use) ofCaller(token string) *use {
	return &use{name: u.name, identity: u.identity, refresher: u.refresher.Of(token), caller: token, others: u.others, outcomes: u.outcomes}
}

// takeCallerToken takes the caller's own token off a request: it is for us alone.
func takeCallerToken(out *http.Request) {
	for field := range out.Header {
		if sameField(field, "Authorization") {
			delete(out.Header, field)
		}
	}
}

// refuseCaller answers a caller whose own token is missing, or is not taken by the
// provider (RFC 6750, section 3).
func refuseCaller(req *http.Request, challenge, sentence string) *http.Response {
	resp := answer(req, http.StatusUnauthorized, sentence)
	resp.Header.Set("WWW-Authenticate", challenge)
	return resp
}

func withoutCallerToken(req *http.Request) *http.Response {
	return refuseCaller(req, "Bearer", "This API wants your own token: Authorization: Bearer TOKEN.")
}

// refusesCaller says whether there is no token because the provider does not take the
// caller's own.
func refusesCaller(err error) bool {
	u, ok := errors.AsType[*refresher.Unavailable](err)
	return ok && u.Cause != nil && u.Cause.RefusesSubject()
}

func callerRefused(req *http.Request) *http.Response {
	return refuseCaller(req, `Bearer error="invalid_token"`, "The provider of this API does not take your token.")
}
