package tokensource

import (
	"context"
	"net/http"
	"net/url"
)

// CanRevoke says whether the configuration names a place to revoke tokens at; an
// issuer's metadata may.
func (s *Source) CanRevoke() bool { return s.config.RevokeURL != "" || s.config.Issuer != "" }

// Revoke gives a token back to its provider (RFC 7009): the refresh token, with
// which most providers end the whole grant, and the access token. The error is an
// *Error; it is nil where the provider has no endpoint for it, or not for such a
// token, and then revoked is false.
func (s *Source) Revoke(ctx context.Context, t *Token) (revoked bool, err error) {
	if !s.CanRevoke() {
		return false, nil
	}
	endpoint := ""
	if s.config.RevokeURL == "" {
		m, problem := s.discover(ctx)
		switch {
		case problem != nil:
			return false, problem
		case m.RevocationEndpoint == "":
			return false, nil
		}
		endpoint = m.RevocationEndpoint
	}
	var first *Error
	for _, one := range []struct{ hint, token string }{{"refresh_token", t.RefreshToken}, {"access_token", t.AccessToken}} {
		if one.token == "" {
			continue
		}
		_, problem := s.request(ctx, &call{
			purpose:  forRevocation,
			url:      endpoint,
			values:   url.Values{"token": {one.token}, "token_type_hint": {one.hint}},
			secrets:  []string{t.RefreshToken, t.AccessToken},
			previous: t,
			read:     s.readRevocation,
		})
		switch {
		case problem == nil:
			revoked = true
		case problem.Code == "unsupported_token_type" && one.hint == "access_token":
			// RFC 7009, section 2.2.1: it ends by itself
		case first == nil:
			first = problem
		}
	}
	if first != nil {
		return false, first
	}
	return revoked, nil
}

// readRevocation takes whatever is a success: RFC 7009 says nothing of the body.
func (s *Source) readRevocation(resp *http.Response) *Error {
	if isSuccess(resp.StatusCode) {
		return nil
	}
	if _, problem := s.config.Response.document(resp); problem != nil {
		return problem
	}
	return &Error{StatusCode: resp.StatusCode, Reason: "the token was not revoked"}
}
