# A real application reads the user from the session. Here each request names its user.


def find_user(get_response):
    def handle(request):
        request.user_id = int(request.headers.get('X-User', 187234))
        return get_response(request)

    return handle
