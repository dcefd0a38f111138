package tokensource

import (
	"maps"
	"net/url"
	"slices"
)

// Identity returns whose tokens this source obtains: a digest of what the
// provider tells its grants apart by, with every placeholder resolved, and
// without secrets. Sources of the same identity can go on with each other's
// tokens.
//
// Of a grant that begins with a refresh token these are the token endpoint and
// the client: the refresh token that was issued last is the only one that is
// worth anything, whatever else is asked for. Of others it is all that is asked
// for.
func (s *Source) Identity() (string, error) {
	asked, err := s.asked()
	if err != nil {
		return "", err
	}
	if s.grant.BeginsWithRefreshToken() {
		asked = asked[:3]
	}
	return digest(asked), nil
}

// Takes says whether a token is one that this source could have obtained as it
// is configured now: by the same parameters, and by the same refresh token where
// one is configured.
func (s *Source) Takes(t *Token) bool {
	asked, err := s.asked()
	if err != nil || t.asked != digest(asked) {
		return false
	}
	if !s.grant.BeginsWithRefreshToken() {
		return true
	}
	current, problem := s.current(t)
	return problem == nil && current.token != "" && current.token == t.RefreshToken
}

// asked is what a source asks for, and whom: the grant, the token endpoint and
// the client first.
func (s *Source) asked() ([]string, error) {
	c := &s.config
	e := &expansion{resolver: &resolver{lookup: c.Lookup}}
	asked := []string{c.Grant, withoutSecrets(e.text("token_url", c.TokenURL)), e.text("client_id", c.ClientID), e.text("username", c.Username)}
	for _, scope := range c.Scopes {
		asked = append(asked, e.text("scope", scope))
	}
	for _, p := range slices.Concat(c.Params, c.TokenRequest.Params) {
		if !IsSecretName(p.Name) {
			asked = append(asked, p.Name, e.text("param "+p.Name, p.Value), string(p.JSON))
		}
	}
	return asked, e.err
}

// withoutSecrets leaves out the parameters of a URL that are secret.
func withoutSecrets(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.RawQuery == "" {
		return address
	}
	query := u.Query()
	maps.DeleteFunc(query, func(name string, _ []string) bool { return IsSecretName(name) })
	u.RawQuery = query.Encode()
	return u.String()
}
