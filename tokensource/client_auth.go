package tokensource

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"golang.org/x/oauth2"
)

// ClientAuth is how a client proves itself at the token endpoint, and which options
// of a token source that needs.
type ClientAuth struct {
	// Needs are the options of which one must be written.
	Needs []string

	// Certificate says that the connection proves it, with a client certificate (RFC
	// 8705).
	Certificate bool

	// Algs are the algorithms by which it signs; nil: it does not.
	Algs []string

	// secret says that the secret itself is sent.
	secret bool

	// style never is auto-detection: that sends a request twice.
	style oauth2.AuthStyle

	// assertion returns the assertion that is sent; nil: none is.
	assertion func(*settings, time.Time) (string, error)
}

// clientAuths is read by whoever checks, explains or sends: one entry a method, by
// its registered name, and one of ours: client_secret_query is client_secret_post in
// the query of the URL.
var clientAuths map[string]ClientAuth

func init() { // a variable that refers to its functions cannot refer to itself
	secret := []string{"client_secret"}
	clientAuths = map[string]ClientAuth{
		"client_secret_basic":         {Needs: secret, secret: true, style: oauth2.AuthStyleInHeader},
		"client_secret_post":          {Needs: secret, secret: true, style: oauth2.AuthStyleInParams},
		"client_secret_query":         {Needs: secret, secret: true, style: oauth2.AuthStyleInParams},
		"client_secret_jwt":           {Needs: secret, Algs: SecretSigningAlgs(), style: oauth2.AuthStyleInParams, assertion: (*settings).secretAssertion},
		"private_key_jwt":             {Needs: []string{"private_key", "client_assertion"}, Algs: SigningAlgs(), style: oauth2.AuthStyleInParams, assertion: (*settings).keyAssertion},
		"tls_client_auth":             {Certificate: true, style: oauth2.AuthStyleInParams},
		"self_signed_tls_client_auth": {Certificate: true, style: oauth2.AuthStyleInParams},
		"none":                        {style: oauth2.AuthStyleInParams},
	}
}

// ClientAuthNames returns the names of all methods, sorted.
func ClientAuthNames() []string { return slices.Sorted(maps.Keys(clientAuths)) }

// ClientAuthByName returns the method of that name, and false if there is none.
func ClientAuthByName(name string) (ClientAuth, bool) {
	method, ok := clientAuths[name]
	return method, ok
}

// DefaultClientAuth returns the method of a source that names none.
func (c *Config) DefaultClientAuth() string {
	switch {
	case c.secretInBody():
		return "client_secret_post"
	case c.Grant == "custom":
		return "none"
	case c.ClientSecret != "":
		return "client_secret_basic"
	case c.ClientAssertion != "", c.PrivateKey != "" && c.Grant != "jwt_bearer":
		return "private_key_jwt"
	}
	return "none"
}

// secretInBody says whether the secret stands in a body that is written out. It is
// sent nowhere else, then.
func (c *Config) secretInBody() bool {
	const name = "client_secret"
	return c.ClientSecret != "" && (c.TokenRequest.Body.Places(name) || c.RefreshRequest != nil && c.RefreshRequest.Body.Places(name))
}

// clientAuth returns the method that is written, or else that which discovery has
// found, or the default.
func (s *Source) clientAuth(found *tokenEndpoint) string {
	c := &s.config
	switch {
	case c.ClientAuth != "":
		return c.ClientAuth
	case c.secretInBody():
	case found != nil && found.ClientAuth != "" && c.ClientSecret != "":
		return found.ClientAuth
	}
	return c.DefaultClientAuth()
}

const jwtBearerAssertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// placeCredentials puts the client's credentials where x/oauth2 cannot put
// them.
func placeCredentials(req *http.Request, c *Config, set *settings, texts url.Values) {
	switch {
	case set.clientAuth == "client_secret_basic" && c.RawBasic:
		req.SetBasicAuth(set.clientID, set.clientSecret)
	case set.clientAuth == "client_secret_query":
		query := url.Values{}
		for _, name := range []string{"client_id", "client_secret"} {
			if texts.Has(name) {
				query.Set(name, texts.Get(name))
				texts.Del(name)
			}
		}
		addQuery(req.URL, query)
	}
}

// addAssertions adds the parameters of RFC 7521, section 4.2.
func addAssertions(set *settings, texts url.Values) {
	if clientAuths[set.clientAuth].assertion != nil {
		texts.Set("client_assertion_type", jwtBearerAssertion)
		texts.Set("client_assertion", set.clientAssertion)
	}
}
