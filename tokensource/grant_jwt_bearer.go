package tokensource

import (
	"net/url"
	"slices"
)

// jwtBearer is RFC 7523, section 2.1: a signed assertion says whom a token is for,
// such as a service account, or the user that it stands in for.
var jwtBearer = Grant{
	Needs:     []string{"private_key"},
	Takes:     slices.Concat(clientOptions, endpointOptions, scopeOptions),
	Refreshes: true,
	values: func(s *settings) url.Values {
		v := url.Values{
			"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"},
			"assertion":  {s.assertion},
		}
		setScope(v, s)
		return v
	},
}
