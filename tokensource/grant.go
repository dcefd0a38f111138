package tokensource

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Grant is how a client comes by a token: what it asks with, and which
// options of a token source it needs and takes.
type Grant struct {
	// Needs are the options without which the grant cannot be asked for.
	Needs []string

	// Takes are the further options that mean something to the grant, beside
	// those that every source has.
	Takes []string

	// Refreshes says that a refresh token in the answer is used by itself for
	// renewal. Where it is false a refresh happens only as written in
	// refresh_request.
	Refreshes bool

	// Person says that only a person can begin the grant: Obtain refreshes what
	// was authorized, and begins nothing.
	Person bool

	// values returns the parameters of the token request that begins the grant. A
	// grant that has none of its own begins with a refresh token.
	values func(*settings) url.Values
}

// BeginsWithRefreshToken says that every token request of the grant is a
// refresh request.
func (g Grant) BeginsWithRefreshToken() bool { return g.values == nil && !g.Person }

// grants is read by whoever checks, explains or sends: one entry a grant.
var grants = map[string]Grant{
	"client_credentials": clientCredentials,
	"password":           password,
	"refresh_token":      refreshToken,
	"custom":             custom,
	"authorization_code": authorizationCode,
	"device_code":        deviceCode,
	"jwt_bearer":         jwtBearer,
	"token_exchange":     tokenExchange,
}

// GrantByName returns the grant of that name, and false if there is none.
func GrantByName(name string) (Grant, bool) {
	g, ok := grants[name]
	return g, ok
}

// GrantNames returns the names of all grants, sorted.
func GrantNames() []string {
	return slices.Sorted(maps.Keys(grants))
}

// clientOptions identify the client at the token endpoint.
var clientOptions = []string{"client_id", "client_secret", "client_auth", "private_key", "key_id", "signing_alg", "claim", "client_assertion", "dpop"}

// endpointOptions are where else the provider is spoken to.
var endpointOptions = []string{"issuer", "revoke_url"}

// scopeOptions limit what is asked for.
var scopeOptions = []string{"scope", "scope_separator"}

// setScope adds the scope parameter where one was configured. RFC 6749,
// section 3.3 separates by a space; some providers want a comma.
func setScope(v url.Values, s *settings) {
	if len(s.scopes) > 0 {
		v.Set("scope", strings.Join(s.scopes, s.scopeSeparator))
	}
}
