package injecttoken

import (
	"cmp"

	"github.com/caddytoken/inject-token/tokensource"
)

// advice is what an operator is told of an error code of RFC 6749, sections 4.1.2.1
// and 5.2, RFC 8628, section 3.5 and OpenID Connect.
var advice = map[string]string{
	"invalid_client":            "the provider refused the client: check client_id, client_secret and client_auth",
	"invalid_grant":             "the provider does not take what was sent: the code, refresh token or password is wrong, spent, revoked or too old, or redirect_uri is not the one that is registered there",
	"unauthorized_client":       "the provider does not let this client use this grant: allow it there, or choose another grant",
	"unsupported_grant_type":    "the provider does not know this grant: check grant and token_url",
	"invalid_scope":             "the provider does not take the scope: check scope and scope_separator",
	"invalid_request":           "the provider found something missing or wrong in the request: check its documentation for further parameters (param), and how it wants them (token_request)",
	"access_denied":             "the person, or the provider, said no",
	"expired_token":             "nobody has entered the code in time",
	"unsupported_response_type": "the provider does not let this client use the grant authorization_code",
	"server_error":              "the provider has trouble of its own",
	"temporarily_unavailable":   "the provider has trouble of its own",
	"login_required":            "the provider wants the person to log in: do not ask for prompt none",
	"consent_required":          "the provider wants the person to consent: do not ask for prompt none",
	"interaction_required":      "the provider wants to ask the person: do not ask for prompt none",
	"authorization_required":    "a person must authorize the source",
}

// explain says what an error means and what can be done about it.
func explain(e *tokensource.Error) string {
	said := e.Error()
	text, known := advice[e.Code]
	switch {
	case known && e.Code == "authorization_required":
		return text
	case known:
		return text + "; it said " + said
	case e.Code == "" && e.Discovery:
		return said + "; check issuer and whether this machine reaches it, or write the endpoints (token_url, authorize_url, …) by hand"
	case e.StatusCode == 0 && e.Code == "" && e.Permanent:
		return said
	case e.StatusCode == 0 && e.Code == "":
		return said + "; check the address (token_url or issuer), and whether this machine reaches it"
	case e.Code == "" && e.StatusCode/100 == 2:
		return "this is no answer with a token: check token_url, or say with token_response where the token stands; " + said
	case e.Code == "" && (e.StatusCode == 429 || e.StatusCode >= 500):
		return "the provider is not well, or wants to be asked less often: try again later; the answer was: " + said
	case e.Code == "" && (e.StatusCode == 404 || e.StatusCode == 405):
		return "this is no token endpoint: check token_url and token_request; the answer was: " + said
	case e.Code == "" && (e.StatusCode == 401 || e.StatusCode == 403):
		return "the provider refused the credentials, in words that are not OAuth's: check them and client_auth; the answer was: " + said
	}
	return cmp.Or(said, "the provider refused it")
}
