package tokensource

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Caller stands in the place of a subject token, and of an actor token, for the one
// that each caller brings along.
const Caller = "caller"

// tokenExchange is RFC 8693: a token that somebody else has issued is exchanged for
// one of this provider.
var tokenExchange = Grant{
	Needs:     []string{"subject_token"},
	Takes:     slices.Concat(clientOptions, endpointOptions, scopeOptions, []string{"actor_token"}),
	Refreshes: true,
	values: func(s *settings) url.Values {
		v := url.Values{
			"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token":      {s.subjectToken},
			"subject_token_type": {tokenType(s.subjectTokenType)},
		}
		if s.actorToken != "" {
			v.Set("actor_token", s.actorToken)
			v.Set("actor_token_type", tokenType(s.actorTokenType))
		}
		setScope(v, s)
		return v
	},
}

// ObtainFor is Obtain for one subject whose token is Caller's. It always exchanges
// that: with a refresh token the subject would be served whose own token is not
// valid any more. Nor does the new token outlive it, where its end can be told.
func (s *Source) ObtainFor(ctx context.Context, subject string, previous *Token) (*Token, error) {
	left := time.Duration(0)
	if end, ok := jwtEnd(subject); ok {
		if left = time.Until(end) - time.Duration(s.skew.Load()); left <= 0 {
			return nil, &Error{Code: "invalid_token", Reason: "the caller's own token has ended", Permanent: true}
		}
	}
	if previous == nil {
		previous = new(Token)
	}
	token, failure := s.request(ctx, &call{purpose: forToken, previous: previous.WithoutRefreshToken(), subject: subject})
	if failure != nil {
		return nil, failure
	}
	token.RefreshToken, token.descents = "", nil
	if left > 0 && (token.Lifetime == 0 || token.Lifetime > left) {
		token.Lifetime = left
	}
	return token, nil
}

// tokenTypes are those of RFC 8693, section 3, by the end of their names.
var tokenTypes = []string{"access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt"}

// CheckTokenType says whether a text names a type of a token: by one of the short
// names of RFC 8693, section 3, or by a whole URI.
func CheckTokenType(name string) error {
	if name == "" || slices.Contains(tokenTypes, name) || strings.Contains(name, ":") && !strings.ContainsAny(name, " {}") {
		return nil
	}
	return errors.New("there are " + strings.Join(tokenTypes, ", ") + ", or a whole URI such as urn:ietf:params:oauth:token-type:jwt")
}

func tokenType(name string) string {
	switch {
	case name == "":
		name = "access_token"
	case !slices.Contains(tokenTypes, name):
		return name
	}
	return "urn:ietf:params:oauth:token-type:" + name
}
