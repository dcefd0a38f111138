package caddy_test

// interopWay is a grant with a way in which the client proves itself, as a user writes
// them into a source.
type interopWay struct {
	word          string // for names
	grant, client string // as the document has them
	source        string // its options; a line whose {{…}} is nothing at a server is left out
	transport     string // of inject_token, to the API
	binding       binding
	person        bool
	wrong         wrongCredential
}

// wrongCredential is what a way has that may be wrong, and who says so.
type wrongCredential struct {
	file string // what it holds is wrong; "": there is nothing that could be
	code string // what the provider answers
	by   string // the command that says it
}

// Who says what is wrong.
const (
	byCheck     = "check"     // for what needs nobody
	byShow      = "show"      // for what must not be spent
	byAuthorize = "authorize" // for what a person begins
)

var (
	wrongSecret   = wrongCredential{"client-secret", "invalid_client", byCheck}
	wrongPassword = wrongCredential{"password", "invalid_grant", byCheck}
	wrongKey      = wrongCredential{"key.pem", "invalid_client", byCheck}
)

const (
	clientCredentials = "grant client_credentials\n" + endpoints
	endpoints         = "token_url {{token}}\nrevoke_url {{revoke}}\n" + identity
	identity          = "client_id {{client}}\nscope {{scope}}\n"
	secretFile        = "client_secret {file.{{dir}}/client-secret}\n"
	authorizationCode = "grant authorization_code\nauthorize_url {{authorize}}\n" + endpoints + "redirect_uri {{redirect}}\n"
)

// theWays are those of the document, in its order.
var theWays = []interopWay{
	{word: "cc-basic", grant: "client_credentials", client: "client_secret_basic", source: clientCredentials + secretFile, wrong: wrongSecret},
	{word: "cc-post", grant: "client_credentials", client: "client_secret_post", source: clientCredentials + secretFile + "client_auth client_secret_post\n", wrong: wrongSecret},
	{word: "cc-query", grant: "client_credentials", client: "client_secret_query", source: clientCredentials + secretFile + "client_auth client_secret_query\n", wrong: wrongSecret},
	{word: "password", grant: "password", client: "client_secret_basic", source: "grant password\n" + endpoints + secretFile + "username peter\npassword {file.{{dir}}/password}\n", wrong: wrongPassword},
	{
		word: "code-secret", grant: "authorization_code", client: "client_secret_basic", source: authorizationCode + secretFile,
		person: true, wrong: wrongCredential{"client-secret", "invalid_client", byAuthorize},
	},
	{word: "code-public", grant: "authorization_code", client: "none, with PKCE", source: authorizationCode, person: true},
	{word: "device-public", grant: "device_code", client: "none", source: "grant device_code\ndevice_url {{device}}\n" + endpoints, person: true},
	{
		word: "device-secret", grant: "device_code", client: "client_secret_basic", source: "grant device_code\ndevice_url {{device}}\n" + endpoints + secretFile,
		person: true, wrong: wrongCredential{"client-secret", "invalid_client", byAuthorize},
	},
	{
		word: "refresh", grant: "refresh_token", client: "client_secret_basic", source: "grant refresh_token\n" + endpoints + secretFile + "refresh_token {file.{{dir}}/refresh-token}\n",
		wrong: wrongCredential{"refresh-token", "invalid_grant", byShow},
	},
}

// wayOf returns the way with a word.
func wayOf(word string) *interopWay {
	for i := range theWays {
		if theWays[i].word == word {
			return &theWays[i]
		}
	}
	panic("there is no way " + word)
}
