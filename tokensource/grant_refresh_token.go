package tokensource

import (
	"net/url"
	"slices"
)

// refreshToken is RFC 6749, section 6, with a first refresh token that was
// obtained elsewhere. Every request of such a source is a refresh request.
var refreshToken = Grant{
	Needs:     []string{"refresh_token"},
	Takes:     slices.Concat(clientOptions, endpointOptions, scopeOptions),
	Refreshes: true,
}

// refreshValues are the parameters of every refresh request. The scope is
// left out where a first grant named it already: what is granted stays
// granted.
func refreshValues(s *settings, grant string, token string) url.Values {
	v := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {token},
	}
	if grant == "refresh_token" {
		setScope(v, s)
	}
	return v
}
